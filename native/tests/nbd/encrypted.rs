//! Encryption: our client on their server, their client on ours, and who may not.

use super::setup::{folder, ours, output, start, succeed, text};
use std::path::Path;

/// An authority, and certificates of a server and a client.
fn certificates(folder: &Path) {
    let openssl = |args: &str| {
        succeed(folder, "openssl", &args.split_whitespace().collect::<Vec<_>>());
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -keyout \
         ca-key.pem -out ca-cert.pem -subj /CN=authority -addext keyUsage=critical,keyCertSign",
    );
    for (who, subject, extensions) in [
        (
            "server",
            "/C=GB/CN=localhost",
            "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth",
        ),
        ("client", "/C=GB/O=Example/CN=laptop", "extendedKeyUsage=clientAuth"),
    ] {
        let text = format!("{extensions}\nkeyUsage=digitalSignature\nbasicConstraints=CA:FALSE\n");
        std::fs::write(folder.join("extensions"), text).expect("a file");
        openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {who}-key.pem \
             -out {who}.csr -subj {subject}"
        ));
        openssl(&format!(
            "x509 -req -in {who}.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 30 \
             -out {who}-cert.pem -extfile extensions"
        ));
    }
}

pub(crate) fn both_ways() {
    let folder = folder();
    let folder = folder.path();
    certificates(folder);
    let socket = folder.join("s");
    let name = text(&socket);
    let dir = text(folder);
    std::fs::write(folder.join("raw"), vec![1; 1 << 20]).expect("an image");
    let image = text(&folder.join("raw"));
    let server = format!("tls-creds-x509,id=t,dir={dir},endpoint=server,verify-peer=on");
    let client = format!("tls-creds-x509,id=t,dir={dir},endpoint=client");
    let ours = ours(folder, "qemu-nbd");
    let theirs = std::path::PathBuf::from("qemu-nbd");
    let list = ["-L", "-k", &name, "--object", &client, "--tls-creds", "t"];
    let list = [&list[..], &["--tls-hostname", "localhost"]].concat();
    // Credentials of the other end are no good.
    for (end, program) in [(&server, "qemu-img"), (&client, "qemu-nbd")] {
        let at = format!("driver=nbd,path={name},tls-creds=t");
        let args = match program {
            "qemu-img" => vec!["info", "--object", end, "--image-opts", &at],
            _ => vec!["-k", &name, "--object", end, "--tls-creds", "t", &image],
        };
        let said = |program: std::path::PathBuf| {
            String::from_utf8_lossy(&output(folder, program, &args).stderr).into_owned()
        };
        assert_eq!(said(super::setup::ours(folder, program)), said(program.into()));
    }
    for (identity, allowed) in [("C=GB,,O=Example,,CN=laptop", true), ("CN=laptop", false)] {
        let authz = format!("authz-simple,id=a,identity={identity}");
        let args = [
            "-f",
            "raw",
            "-r",
            "-t",
            "-e",
            "0",
            "-k",
            &name,
            "--object",
            &server,
            "--tls-creds",
            "t",
            "--object",
            &authz,
            "--tls-authz",
            "a",
            &image,
        ];
        for (serves, asks) in [(&theirs, &ours), (&ours, &theirs), (&ours, &ours)] {
            let _server = start(serves, &args, &socket);
            let got = output(folder, asks, &list);
            assert_eq!(got.status.success(), allowed, "{serves:?} {asks:?} {got:?}");
            if allowed {
                assert!(String::from_utf8_lossy(&got.stdout).contains("size:  1048576"));
            }
            // The same by options of an image.
            let at = format!("driver=nbd,path={name},tls-creds=t,tls-hostname=localhost");
            let size = ["info", "--object", &client, "--image-opts", &at];
            for img in
                [std::path::PathBuf::from("qemu-img"), super::setup::ours(folder, "qemu-img")]
            {
                let got = output(folder, &img, &size);
                assert_eq!(got.status.success(), allowed, "{serves:?} {img:?} {got:?}");
            }
            // Nothing without encryption, in the same words.
            let plain = output(folder, asks, &["-L", "-k", &name]);
            let said = String::from_utf8_lossy(&plain.stderr);
            assert!(said.contains("TLS negotiation required before option"), "{said}");
            // Not with another name in the certificate.
            let mut other = list.clone();
            other.pop();
            other.push("elsewhere");
            assert!(!output(folder, asks, &other).status.success());
            let _ = std::fs::remove_file(&socket);
        }
    }
}
