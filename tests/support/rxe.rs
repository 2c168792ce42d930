//! A soft-RoCE device that a test takes away and brings back, as root. Real devices are left alone.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// As tools/soft-roce names it.
const NAME: &str = "rxe0";
/// RDMA CM's library closes a device that is gone only while there is another one, so there is.
const OTHER: &str = "rxe_other";
/// Nothing may take longer, even under emulation.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// See the module.
pub struct Rxe {
    /// The network device below it.
    pub below: String,
}

impl Rxe {
    /// None, which is said, where the device under test is another.
    pub fn find() -> Option<Rxe> {
        let parent = std::fs::read_to_string(format!("/sys/class/infiniband/{NAME}/parent")).ok();
        if parent.is_none() {
            println!("skipped: there is no {NAME}, which could be deleted");
        }
        parent.map(|name| Rxe { below: name.trim().to_string() })
    }

    /// Have another device beside it, on the loopback interface.
    pub fn add_other(&self) {
        run("rdma", &format!("link add {OTHER} type rxe netdev lo"));
    }

    /// The other one goes. It is gone once everybody has closed it: `look` is called meanwhile.
    pub fn delete_other(&self, look: impl Fn()) {
        let deletion = start("rdma", &format!("link delete {OTHER}"));
        ended(deletion, look);
    }

    /// It goes. The command ends once everybody has closed it.
    pub fn delete(&self) -> Child {
        start("rdma", &format!("link delete {NAME}"))
    }

    /// It is back, and has its address.
    pub fn add(&self) {
        run("rdma", &format!("link add {NAME} type rxe netdev {}", self.below));
        self.await_gid();
    }

    /// The kernel makes an address a GID of the device some time later.
    pub fn await_gid(&self) {
        let path = format!("/sys/class/infiniband/{NAME}/ports/1/gids/1");
        let until = Instant::now() + WAIT_MAX;
        while !std::fs::read_to_string(&path).is_ok_and(|gid| gid.contains(":ffff:")) {
            assert!(Instant::now() < until, "no GID within {WAIT_MAX:?}");
            std::thread::yield_now();
        }
    }
}

/// A program with these words, under way.
pub fn start(program: &str, words: &str) -> Child {
    Command::new(program).args(words.split(' ')).spawn().expect("a program of iproute2")
}

/// It has ended well. `look` is called meanwhile.
pub fn ended(mut child: Child, look: impl Fn()) {
    let until = Instant::now() + WAIT_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child of this process") {
            break status;
        }
        assert!(Instant::now() < until, "not within {WAIT_MAX:?}");
        look();
        std::thread::yield_now();
    };
    assert!(status.success(), "{status}");
}

/// A program with these words has ended well.
pub fn run(program: &str, words: &str) {
    ended(start(program, words), || ());
}
