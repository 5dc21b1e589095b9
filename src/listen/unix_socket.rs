//! Unix sockets are files, and files outlive programs: a file that no process listens on is
//! replaced, one in use is left alone, and the program's own is removed at the end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::BACKLOG;
use crate::config::UnixSockets;

/// The file of a socket. It is removed on drop, unless another process has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

/// Opens a listening socket at `path`.
///
/// # Errors
/// When another process listens there, when another kind of file is there, or when mode, owner or
/// group cannot be set.
pub fn bind(path: &Path, like: &UnixSockets) -> io::Result<(UnixListener, SocketFile)> {
    make_room(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), id: id(path)? };
    // SECURITY: connections are refused until `listen`, so the mode that the file was created with
    // admits no client.
    make_like(path, like)?;
    socket.listen(BACKLOG)?;
    Ok((socket.into(), file))
}

/// Gives the file of a socket its mode, owner and group.
///
/// # Errors
/// When it is gone, or when this user may not.
pub fn make_like(path: &Path, like: &UnixSockets) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(like.mode))?;
    if like.owner.is_some() || like.group.is_some() {
        std::os::unix::fs::chown(path, like.owner, like.group)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot set its owner and group: {error}")))?;
    }
    Ok(())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The next process may already have put its own file there.
        if id(&self.path).is_ok_and(|id| id == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the file of a process that did not end in order.
fn make_room(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is there already"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Otherwise `connect` would wait for a listener whose queue is full.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(()) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"))
        }
        Err(error) => Err(error),
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}
