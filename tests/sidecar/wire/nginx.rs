//! nginx as a proxy, configured as its documentation recommends.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::port::Port;
use crate::support::sidecar::wait_until;

/// A running nginx. Dropping it ends it.
pub struct Nginx {
    child: Child,
    port: Port,
    _directory: tempfile::TempDir,
}

impl Nginx {
    pub fn before(upstream: SocketAddr) -> Nginx {
        let (directory, port) = (tempfile::TempDir::new().unwrap(), Port::reserve());
        let here = directory.path().display();
        let text = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log; events {{ }}\n\
             http {{ access_log off; client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;\n\
             fastcgi_temp_path {here}/fastcgi; uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;\n\
             upstream site {{ server {upstream}; keepalive 4; }}\n\
             server {{ listen {}; location / {{ proxy_pass http://site; proxy_http_version 1.1;\n\
             proxy_set_header Host $http_host; proxy_set_header Connection \"\"; }} }} }}\n",
            port.address()
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg(directory.path().join("error.log")).arg("-c").arg(file).stdin(Stdio::null());
        let child = command.spawn().expect("nginx is installed");
        wait_until("nginx listens", || std::net::TcpStream::connect(port.address()).is_ok());
        Nginx { child, port, _directory: directory }
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
