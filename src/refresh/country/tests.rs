use super::*;
use std::process::Command;

const PLUGIN: &str = "jwt-auth-pro-premium/jwt-auth-pro.php";

/// A MaxMind database in its published format, version 2.0, with 24-bit records: a binary tree over
/// the addresses' bits, 16 zero bytes, the data, a marker and the metadata.
fn database(networks: &[(&str, Option<&str>)]) -> Vec<u8> {
    const EMPTY: u32 = u32::MAX;
    const DATA: u32 = 1 << 24;
    let mut tree = vec![[EMPTY; 2]];
    let mut data = Vec::new();
    for (network, code) in networks {
        let network: ipnet::IpNet = network.parse().unwrap();
        let (bits, length) = match network {
            // An IPv6 tree contains IPv4 addresses under ::/96.
            ipnet::IpNet::V4(network) => (u128::from(network.network().to_bits()), 96 + network.prefix_len()),
            ipnet::IpNet::V6(network) => (network.network().to_bits(), network.prefix_len()),
        };
        let mut node = 0;
        for depth in 0..length {
            let side = usize::try_from(bits >> (127 - depth) & 1).unwrap();
            if depth + 1 == length {
                tree[node][side] = DATA + u32::try_from(data.len()).unwrap();
            } else {
                if tree[node][side] == EMPTY {
                    tree[node][side] = u32::try_from(tree.len()).unwrap();
                    tree.push([EMPTY; 2]);
                }
                node = usize::try_from(tree[node][side]).unwrap();
            }
        }
        data.extend(match code {
            Some(code) => map(&[("country", map(&[("iso_code", text(code))]))]),
            None => map(&[("continent", map(&[("code", text("EU"))]))]),
        });
    }
    let nodes = u32::try_from(tree.len()).unwrap();
    let mut file = Vec::new();
    for record in tree.iter().flatten() {
        let value = match *record {
            EMPTY => nodes,
            data if data >= DATA => nodes + 16 + (data - DATA),
            node => node,
        };
        file.extend_from_slice(&value.to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    file.extend(map(&[
        ("binary_format_major_version", u16(2)),
        ("binary_format_minor_version", u16(0)),
        ("build_epoch", vec![0x01, 0x02, 1]),
        ("database_type", text("Test-Country")),
        ("description", map(&[])),
        ("ip_version", u16(6)),
        ("languages", vec![0x00, 0x04]),
        ("node_count", [&[0xc4], &nodes.to_be_bytes()[..]].concat()),
        ("record_size", u16(24)),
    ]));
    file
}

fn text(text: &str) -> Vec<u8> {
    assert!(text.len() < 29);
    [&[0x40 | u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn u16(value: u8) -> Vec<u8> {
    vec![0xa1, value]
}

fn map(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut map = vec![0xe0 | u8::try_from(members.len()).unwrap()];
    for (name, value) in members {
        map.extend(text(name));
        map.extend(value);
    }
    map
}

async fn codes<const N: usize>(countries: &mut Countries, addresses: [&str; N]) -> [String; N] {
    countries.looked = None;
    countries.look(PLUGIN).await;
    addresses.map(|address| countries.code(address.parse().unwrap()))
}

const ADDRESSES: [&str; 5] = ["8.8.8.8", "9.9.9.9", "1.1.1.1", "2a00::1", "10.0.0.1"];

#[tokio::test]
async fn the_plugins_own_database() {
    let plugins = tempfile::tempdir().unwrap();
    let file = plugins.path().join("jwt-auth-pro-premium").join(IN_PLUGIN);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut countries = Countries::new(None, Some(plugins.path().to_owned()));
    assert_eq!(codes(&mut countries, ADDRESSES).await, ["ZZ", "ZZ", "ZZ", "ZZ", "--"], "no file yet");

    std::fs::write(&file, database(&[("8.0.0.0/8", Some("US")), ("9.0.0.0/8", None), ("2a00::/12", Some("DE"))]))
        .unwrap();
    assert_eq!(codes(&mut countries, ADDRESSES).await, ["US", "XX", "XX", "DE", "--"]);

    let replaced = database(&[("8.0.0.0/8", Some("CH"))]);
    std::fs::write(&file, replaced).unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    std::fs::File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();
    assert_eq!(codes(&mut countries, ADDRESSES).await, ["CH", "XX", "XX", "XX", "--"], "a new file");

    std::fs::write(&file, b"no database").unwrap();
    assert_eq!(codes(&mut countries, ADDRESSES).await, ["ZZ", "ZZ", "ZZ", "ZZ", "--"]);
}

#[tokio::test]
async fn a_configured_database_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("countries.mmdb");
    std::fs::write(&file, database(&[("8.0.0.0/8", Some("US"))])).unwrap();
    let mut countries = Countries::new(Some(file), Some(PathBuf::from("nowhere")));
    assert_eq!(codes(&mut countries, ["8.8.8.8"]).await, ["US"]);
}

#[test]
fn a_plugins_folder_does_not_lead_elsewhere() {
    let countries = Countries::new(None, Some(PathBuf::from("plugins")));
    for plugin in ["../jwt-auth-pro.php", "./jwt-auth-pro.php", "/jwt-auth-pro.php", "jwt-auth-pro.php", ""] {
        assert_eq!(countries.file(plugin), None, "{plugin}");
    }
    assert!(countries.file(PLUGIN).unwrap().starts_with("plugins/jwt-auth-pro-premium"));
}

#[test]
fn private_and_reserved_are_phps() {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for high in 0..=u16::MAX {
        let [a, b] = high.to_be_bytes();
        addresses.push(Ipv4Addr::new(a, b, b, a).into());
        addresses.push(Ipv6Addr::new(high, 1, 0, 0, 0, 0, 0, 1).into());
        addresses.push(Ipv6Addr::new(0x2001, high, 0, 0, 0, 0, 0, 1).into());
        addresses.push(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, high).into());
        addresses.push(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, 1).into());
    }
    const SCRIPT: &str = "foreach (file('php://stdin', FILE_IGNORE_NEW_LINES) as $ip) echo (int) (false === \
        filter_var($ip, FILTER_VALIDATE_IP, FILTER_FLAG_NO_PRIV_RANGE | FILTER_FLAG_NO_RES_RANGE));";
    let input = tempfile::NamedTempFile::new().unwrap();
    let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    std::fs::write(input.path(), lines).unwrap();
    let input = std::fs::File::open(input.path()).unwrap();
    let output = Command::new("php").args(["-r", SCRIPT]).stdin(input).output().unwrap();
    assert_eq!(output.stdout.len(), addresses.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for (address, answer) in addresses.into_iter().zip(output.stdout) {
        assert_eq!(is_private_or_reserved(address), answer == b'1', "{address}");
    }
}
