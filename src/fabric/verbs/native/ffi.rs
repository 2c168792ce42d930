//! The declarations of native/verbs.h, and nothing else: the two change together.

use std::ffi::{c_char, c_int};

macro_rules! opaque {
    ($($name:ident),*) => {$(
        #[repr(C)]
        pub struct $name {
            _opaque: [u8; 0],
        }
    )*};
}

opaque!(Devices, Device, Pd, Mr, Waker, Cq, Cm, Id);

pub const READS_MAX: usize = 16;
pub const COMPLETIONS_MAX: usize = 16;
pub const ADDRESS_BYTES: usize = 28;
pub const PRIVATE_BYTES: usize = 64;

pub const ACCESS_LOCAL_WRITE: u32 = 1;
pub const ACCESS_REMOTE_READ: u32 = 2;
pub const ACCESS_REMOTE_WRITE: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct DeviceAttributes {
    pub name: [c_char; 64],
    pub mr_bytes_max: u64,
    pub ports: u32,
    pub transport: u32,
    pub responder_reads_max: u32,
    pub initiator_reads_max: u32,
    pub qp_max: u32,
    pub mr_max: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct PortAttributes {
    pub active: u32,
    pub ethernet: u32,
    pub gids: u32,
    pub mtu_bytes: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Transfer {
    pub tag: u64,
    pub remote: u64,
    pub local: u64,
    pub rkey: u32,
    pub lkey: u32,
    pub bytes: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Completed {
    pub tag: u64,
    pub status: u32,
    pub vendor: u32,
}

#[repr(C)]
pub struct Connection {
    pub private_data: *const u8,
    pub private_bytes: u32,
    pub responder_reads: u8,
    pub initiator_reads: u8,
    pub retries: u8,
    pub rnr_retries: u8,
}

#[repr(C)]
pub struct CmEvent {
    pub key: u64,
    pub request: *mut Id,
    pub kind: u32,
    pub status: i32,
    pub private_bytes: u32,
    pub responder_reads: u8,
    pub initiator_reads: u8,
    pub reserved: [u8; 2],
    pub private_data: [u8; PRIVATE_BYTES],
}

/// As in native/verbs.h.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<DeviceAttributes>() == 96);
    assert!(size_of::<PortAttributes>() == 16);
    assert!(size_of::<Transfer>() == 40);
    assert!(size_of::<Completed>() == 16);
    assert!(size_of::<Connection>() == 16);
    assert!(size_of::<CmEvent>() == 96);
};

unsafe extern "C" {
    pub fn rv_load(why: *mut c_char, why_bytes: u32) -> c_int;
    pub fn rv_registrations() -> i64;

    pub fn rv_devices_open(list: *mut *mut Devices) -> c_int;
    pub fn rv_devices_close(list: *mut Devices);
    pub fn rv_devices_at(list: *mut Devices, index: u32) -> *mut Device;
    pub fn rv_device_info(device: *mut Device, info: *mut DeviceAttributes) -> c_int;
    pub fn rv_port_info(device: *mut Device, port: u32, info: *mut PortAttributes) -> c_int;
    pub fn rv_gid(device: *mut Device, port: u32, index: u32, gid: *mut u8) -> c_int;
    pub fn rv_async_fd(device: *mut Device) -> c_int;
    pub fn rv_async_next(device: *mut Device, qp_number: *mut u32, name: *mut c_char, name_bytes: u32) -> c_int;

    pub fn rv_pd_alloc(device: *mut Device, pd: *mut *mut Pd) -> c_int;
    pub fn rv_pd_free(pd: *mut Pd) -> c_int;
    pub fn rv_mr_register(
        pd: *mut Pd,
        address: u64,
        bytes: u64,
        access: u32,
        mr: *mut *mut Mr,
        lkey: *mut u32,
        rkey: *mut u32,
    ) -> c_int;
    pub fn rv_mr_free(mr: *mut Mr) -> c_int;

    pub fn rv_waker_create(device: *mut Device, waker: *mut *mut Waker, fd: *mut c_int) -> c_int;
    pub fn rv_waker_destroy(waker: *mut Waker) -> c_int;
    pub fn rv_cq_create(device: *mut Device, entries: u32, waker: *mut Waker, cq: *mut *mut Cq) -> c_int;
    pub fn rv_cq_destroy(cq: *mut Cq) -> c_int;
    pub fn rv_cq_poll(cq: *mut Cq, out: *mut Completed, count_max: u32) -> c_int;
    pub fn rv_cq_arm(cq: *mut Cq) -> c_int;
    pub fn rv_waker_clear(waker: *mut Waker, cq: *mut Cq) -> c_int;
    pub fn rv_status_name(status: u32) -> *const c_char;

    pub fn rv_cm_open(cm: *mut *mut Cm, fd: *mut c_int) -> c_int;
    pub fn rv_cm_close(cm: *mut Cm);
    pub fn rv_cm_event(cm: *mut Cm, event: *mut CmEvent) -> c_int;
    pub fn rv_event_name(kind: u32) -> *const c_char;

    pub fn rv_id_create(cm: *mut Cm, key: u64, id: *mut *mut Id) -> c_int;
    pub fn rv_id_destroy(id: *mut Id) -> c_int;
    pub fn rv_id_set_key(id: *mut Id, key: u64);
    pub fn rv_id_ack_timeout(id: *mut Id, exponent: u8) -> c_int;
    pub fn rv_id_tos(id: *mut Id, tos: u8) -> c_int;
    pub fn rv_id_bind(id: *mut Id, address: *const u8, bytes: u32) -> c_int;
    pub fn rv_id_listen(id: *mut Id, backlog: u32) -> c_int;
    pub fn rv_id_local(id: *mut Id, address: *mut u8) -> c_int;
    pub fn rv_id_resolve(
        id: *mut Id,
        from: *const u8,
        from_bytes: u32,
        to: *const u8,
        to_bytes: u32,
        wait_ms: u32,
    ) -> c_int;
    pub fn rv_id_route(id: *mut Id, wait_ms: u32) -> c_int;
    pub fn rv_id_device(id: *mut Id, port: *mut u32) -> *mut Device;
    pub fn rv_id_connect(id: *mut Id, with: *const Connection) -> c_int;
    pub fn rv_id_accept(id: *mut Id, with: *const Connection) -> c_int;
    pub fn rv_id_reject(id: *mut Id, reason: *const u8, bytes: u32) -> c_int;
    pub fn rv_id_disconnect(id: *mut Id) -> c_int;

    pub fn rv_qp_create(
        id: *mut Id,
        pd: *mut Pd,
        cq: *mut Cq,
        sends: u32,
        inline_bytes: *mut u32,
        number: *mut u32,
    ) -> c_int;
    pub fn rv_qp_stop(id: *mut Id) -> c_int;
    pub fn rv_qp_destroy(id: *mut Id) -> c_int;
    pub fn rv_post_reads(id: *mut Id, reads: *const Transfer, count: u32) -> c_int;
    pub fn rv_post_writes(id: *mut Id, writes: *const Transfer, count: u32) -> c_int;
    pub fn rv_post_write(id: *mut Id, write: *const Transfer, inline_data: u32, signaled: u32) -> c_int;
}
