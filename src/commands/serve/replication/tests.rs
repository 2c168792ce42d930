//! Values of flags.

use super::*;

#[test]
fn a_device_is_named_with_its_port_and_gid() {
    let options = device("mlx5_0:1:3").unwrap();
    assert_eq!((options.device.as_deref(), options.port, options.gid_index), (Some("mlx5_0"), Some(1), Some(3)));
    assert_eq!(device("rxe0").unwrap().port, None);
    for wrong in ["", ":1", "a:b", "a:1:2:3", "a:300"] {
        assert!(device(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn times_that_make_no_sense_are_refused_with_those_that_do() {
    for wrong in ["0", "1", "2", "3601", "-3", "10s"] {
        let error = silence(wrong).unwrap_err();
        assert!(error.contains("write 3 to 3600 seconds"), "{wrong}: {error}");
    }
    assert_eq!((silence("3"), silence("3600")), (Ok(3), Ok(3600)));
    for wrong in ["0", "60001", "-1", "1s"] {
        let error = ack_timeout(wrong).unwrap_err();
        assert!(error.contains("write 1 to 60000 milliseconds"), "{wrong}: {error}");
    }
    assert!(retain("64").unwrap_err().contains("write 64k or more, or 0"));
    assert_eq!((retain("0"), retain("64k"), retain("2g")), (Ok(0), Ok(64 << 10), Ok(2 << 30)));
    assert_eq!((ack_timeout("1"), ack_timeout("60000")), (Ok(1), Ok(60_000)));
}

#[test]
fn fabrics_are_auto_or_named() {
    let names = |text: &str| fabrics(&text.split(',').map(String::from).collect::<Vec<_>>());
    assert_eq!(names("auto").unwrap(), None);
    assert_eq!(names("tcp,shm").unwrap(), Some(vec![Kind::Tcp, Kind::Shm]));
    assert!(names("auto,tcp").unwrap_err().to_string().contains("alone"));
    assert!(names("sim").unwrap_err().to_string().contains("verbs"));
}

#[test]
fn addresses_have_ports() {
    assert!(resolve_one("127.0.0.1").is_err());
    assert_eq!(resolve_one("127.0.0.1:7").unwrap().port(), 7);
    assert_eq!(with_port("primary:7").unwrap(), "primary:7");
    for wrong in ["primary", "primary:", "primary:0", ":7", "primary:x"] {
        assert!(with_port(wrong).is_err(), "{wrong}");
    }
}
