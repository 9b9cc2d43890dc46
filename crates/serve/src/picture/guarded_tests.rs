//! Hostile addresses, with a resolver that answers what an attacker would have it answer.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// What a name resolves to here. Numbers in odd spellings are resolved as the C library does.
fn resolver() -> Lookup {
    Arc::new(|host, port| {
        let known: &[(&str, &[&str])] = &[
            ("images.example.com", &["93.184.216.34"]),
            ("inside.example.com", &["10.1.2.3"]),
            ("loop.example.com", &["127.0.0.1"]),
            ("meta.example.com", &["169.254.169.254"]),
            ("six.example.com", &["::1"]),
            ("mapped.example.com", &["::ffff:169.254.169.254"]),
            ("ula.example.com", &["fd00::1"]),
            ("both.example.com", &["93.184.216.34", "127.0.0.1"]),
            ("zero.example.com", &["0.0.0.0"]),
            ("nothing.example.com", &[]),
            ("localhost", &["127.0.0.1"]),
            ("127.0.0.1.nip.io", &["127.0.0.1"]),
            ("2130706433", &["127.0.0.1"]),
            ("0x7f000001", &["127.0.0.1"]),
            ("017700000001", &["127.0.0.1"]),
            ("0177.0.0.1", &["127.0.0.1"]),
            ("0x7f.0.0.1", &["127.0.0.1"]),
            ("127.1", &["127.0.0.1"]),
            ("127.0.1", &["127.0.0.1"]),
            ("0", &["0.0.0.0"]),
            ("2852039166", &["169.254.169.254"]),
            ("metadata.google.internal", &["169.254.169.254"]),
        ];
        let found = known.iter().find(|(name, _)| host.trim_end_matches('.') == *name);
        let literal = host.parse::<std::net::IpAddr>().ok().map(|address| vec![address]);
        let addresses = found.map(|(_, list)| list.iter().map(|a| a.parse().unwrap()).collect());
        match addresses.or(literal) {
            Some(addresses) => Ok(addresses
                .into_iter()
                .map(|address| SocketAddr::new(address, port))
                .collect()),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
    })
}

/// Whatever is allowed by name, nothing here may be connected to.
#[test]
fn hostile_addresses_are_refused() {
    let urls = [
        // other schemes, and things that are no address
        "file:///etc/passwd",
        "ftp://images.example.com/a.jpg",
        "gopher://127.0.0.1:6379/_INFO",
        "dict://127.0.0.1:11211/",
        "javascript:alert(1)",
        "data:text/html,hi",
        "//127.0.0.1/",
        "/etc/passwd",
        "images.example.com/a.jpg",
        "http://",
        "https://",
        "http:///a.jpg",
        "http:/127.0.0.1/",
        "http:127.0.0.1",
        "jar:http://127.0.0.1!/",
        "unix:/run/docker.sock",
        "",
        // credentials, ports, characters that parsers disagree about
        "http://user@127.0.0.1/",
        "http://user:secret@images.example.com/a.jpg",
        "http://images.example.com@127.0.0.1/",
        "http://images.example.com%40127.0.0.1/",
        "http://127.0.0.1\\@images.example.com/",
        "http://images.example.com\\.evil.example/",
        "http://127.0.0.1 .example.com/",
        "http://127.0.0.1\t/",
        "http://127.0.0.1\r\nHost: x/",
        "http://images.example.com:0/",
        "http://images.example.com:99999/",
        "http://images.example.com:/",
        "http://images.example.com:80:80/",
        "http://①②⑦.⓪.⓪.①/",
        "http://exämple.com/",
        "http://[::1",
        "http://::1/",
        "http://[::1]extra/",
        "http://[fe80::1%25eth0]/",
        // this machine, in every spelling
        "http://127.0.0.1/",
        "http://127.0.0.1:8080/",
        "https://127.0.0.1/",
        "HTTP://127.0.0.1/",
        "http://localhost/",
        "http://LOCALHOST/",
        "http://localhost./",
        "http://127.0.0.1./",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://017700000001/",
        "http://0177.0.0.1/",
        "http://0x7f.0.0.1/",
        "http://0/",
        "http://0.0.0.0/",
        "http://127.255.255.254/",
        "http://[::1]/",
        "http://[::]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://127.0.0.1.nip.io/",
        // its network
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://172.31.255.255/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://[fc00::1]/",
        "http://[fd12:3456::1]/",
        "http://[fe80::1]/",
        "http://[fec0::1]/",
        // the metadata of clouds
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://metadata.google.internal/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:a9fe:a9fe::1]/",
        // nobody's
        "http://192.0.2.1/",
        "http://198.51.100.1/",
        "http://203.0.113.1/",
        "http://198.18.0.1/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://[2001:db8::1]/",
        "http://[ff02::1]/",
        "http://[2001::1]/",
        "http://[100::1]/",
        // names that lead inside, or nowhere
        "http://inside.example.com/",
        "http://loop.example.com/",
        "http://meta.example.com/",
        "http://six.example.com/",
        "http://mapped.example.com/",
        "http://ula.example.com/",
        "http://both.example.com/",
        "http://zero.example.com/",
        "http://nothing.example.com/",
        "http://unknown.example.com/",
    ];
    assert!(urls.len() >= 90, "{}", urls.len());
    let any = AllowedHosts::new(&["*"]).unwrap();
    for url in urls {
        let error = get(url, &any, resolver(), 1000, "input[0]").expect_err(url);
        assert_eq!(
            (error.status.as_u16(), error.param.as_deref()),
            (422, Some("input[0]")),
            "{url}"
        );
        // refused for what it is: neither a connection nor an answer was waited for
        assert!(!error.message.contains("answers with"), "{url}: {}", error.message);
    }
    let long = format!("http://images.example.com/{}", "a".repeat(3000));
    assert!(get(&long, &any, resolver(), 1000, "x").is_err());
}

#[test]
fn only_hosts_on_the_list_are_asked() {
    let hosts = AllowedHosts::new(&["images.example.com", "*.photos.example"]).unwrap();
    for good in [
        "http://images.example.com/a",
        "https://IMAGES.example.com:8443/a?b",
        "http://images.example.com./a",
        "http://a.photos.example/",
        "http://a.b.photos.example/",
    ] {
        assert!(hosts.check(good, "x").is_ok(), "{good}");
    }
    for bad in [
        "http://example.com/a",
        "http://ximages.example.com/",
        "http://images.example.com.evil.example/",
        "http://photos.example/",
        "http://evilphotos.example/",
        "http://93.184.216.34/",
    ] {
        assert!(hosts.check(bad, "x").is_err(), "{bad}");
    }
    for bad in [
        "",
        "http://a.example",
        "a.example/b",
        "a.example:80",
        "*.",
        "a b",
        "*a.example",
    ] {
        assert!(AllowedHosts::new(&[bad]).is_err(), "{bad}");
    }
}

/// A name that leads inside at first and to a public address when it is asked again: what was refused is not asked for once more, and
/// what is connected to is what was checked, since nothing else resolves.
#[test]
fn a_name_is_resolved_once_for_each_connection() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let rebinding: Lookup = Arc::new(move |_, port| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        let address = if first { "127.0.0.1" } else { "93.184.216.34" };
        Ok(vec![SocketAddr::new(address.parse().unwrap(), port)])
    });
    let any = AllowedHosts::new(&["*"]).unwrap();
    assert!(get("http://rebind.example.com:9/", &any, rebinding, 1000, "x").is_err());
    assert_eq!(asked.load(Ordering::SeqCst), 1, "asked again after the check");
}

/// A server on this machine that answers each connection with the next of some answers.
fn server(answers: Vec<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answer);
        }
    });
    port
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [
        format!(
            "HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
        body,
    ]
    .concat()
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and the rest";

/// The guard refuses this machine, so that the answers of a server are tested below it.
fn fetched(answers: Vec<Vec<u8>>, most: u64) -> Answer<Bytes> {
    let port = server(answers);
    let hosts = AllowedHosts::new(&["here.example.com"]).unwrap();
    let local: Lookup = Arc::new(|_, port| Ok(vec![SocketAddr::new("127.0.0.1".parse().unwrap(), port)]));
    follow(
        &format!("http://here.example.com:{port}/a/b.png"),
        &hosts,
        &|| Address::Any(local.clone()),
        most,
        "x",
    )
}

#[test]
fn pictures_arrive_and_what_is_none_does_not() {
    assert_eq!(fetched(vec![answer("200 OK", PNG)], 1000).unwrap(), PNG);
    let status = |result: Answer<Bytes>| result.unwrap_err().status.as_u16();
    assert_eq!(
        status(fetched(vec![answer("200 OK", b"<html>secret</html>")], 1000)),
        415
    );
    assert_eq!(status(fetched(vec![answer("200 OK", PNG)], 10)), 413);
    assert_eq!(status(fetched(vec![answer("404 Not Found", PNG)], 1000)), 422);
    let error = fetched(vec![answer("500 Oops", b"secret of the inside")], 1000).unwrap_err();
    assert!(!error.message.contains("secret"), "{}", error.message);
}

#[test]
fn redirects_are_checked_like_the_first_address() {
    let to = |place: &str| answer(&format!("302 Found\r\nlocation: {place}"), b"");
    for inside in [
        "http://127.0.0.1/",
        "http://metadata.google.internal/",
        "file:///etc/passwd",
        "//169.254.169.254/x",
        "http://user@here.example.com/",
    ] {
        let error = fetched(vec![to(inside), answer("200 OK", PNG)], 1000).unwrap_err();
        assert_eq!(error.status.as_u16(), 422, "{inside}");
    }
    assert_eq!(
        fetched(
            vec![to("/c.png"), to("d.png"), to("../e.png"), answer("200 OK", PNG)],
            1000
        )
        .unwrap(),
        PNG
    );
    let error = fetched(
        vec![to("/1"), to("/2"), to("/3"), to("/4"), answer("200 OK", PNG)],
        1000,
    )
    .unwrap_err();
    assert!(error.message.contains("more than 3 times"), "{}", error.message);
}
