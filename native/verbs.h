/*
 * Remora's own thin layer over RDMA verbs and RDMA CM: what src/fabric/verbs/native.rs calls.
 *
 * Flat functions with arguments of fixed size, because post_send, poll_cq and the like are inline
 * functions of the system's headers and the structures behind them are not ours to declare again.
 * libibverbs and librdmacm are not linked: rv_load opens them at run time, so that one binary
 * starts on any host.
 *
 * Every int that is returned is 0 or more for success and a negative errno for failure. Nothing
 * here waits: the descriptors are non-blocking, and who finds nothing is told -EAGAIN. No function
 * keeps a pointer to its arguments, but for memory that is registered, read into or written from.
 * Handles may be used by several threads at a time; each is destroyed once, by its owner, after
 * what was made of it.
 *
 * The structures are mirrored in src/fabric/verbs/native/ffi.rs, which must change with them.
 */
#ifndef REMORA_VERBS_H
#define REMORA_VERBS_H

#include <stdint.h>

struct rv_devices; /* a list of open devices */
struct rv_device;  /* ibv_context */
struct rv_pd;      /* ibv_pd */
struct rv_mr;      /* ibv_mr */
struct rv_waker;   /* ibv_comp_channel */
struct rv_cq;      /* ibv_cq */
struct rv_cm;      /* rdma_event_channel */
struct rv_id;      /* rdma_cm_id, with its queue pair once it has one */

/* Most READs of one rv_post_reads, and WRITEs of one rv_post_writes. */
#define RV_READS_MAX 16
/* Most completions of one rv_cq_poll. */
#define RV_COMPLETIONS_MAX 16
/* Most bytes of an address: those of a sockaddr_in6. */
#define RV_ADDRESS_BYTES 28
/* Most bytes of private data that are handed on. */
#define RV_PRIVATE_BYTES 64

struct rv_device_info {
	char name[64];
	uint64_t mr_bytes_max;
	uint32_t ports;
	uint32_t transport; /* ibv_transport_type */
	uint32_t responder_reads_max; /* max_qp_rd_atom */
	uint32_t initiator_reads_max; /* max_qp_init_rd_atom */
	uint32_t qp_max;
	uint32_t mr_max;
};

struct rv_port_info {
	uint32_t active; /* 1: IBV_PORT_ACTIVE */
	uint32_t ethernet; /* 1: RoCE, 0: InfiniBand or unknown */
	uint32_t gids;
	uint32_t mtu_bytes;
};

struct rv_read {
	uint64_t tag;
	uint64_t remote;
	uint64_t local;
	uint32_t rkey;
	uint32_t lkey;
	uint32_t bytes;
	uint32_t reserved;
};

struct rv_completion {
	uint64_t tag;
	uint32_t status; /* ibv_wc_status; 0 is success */
	uint32_t vendor;
};

/* How READs may be under way between two ends, and how failures of the network are noticed. */
struct rv_connection {
	const uint8_t *private_data;
	uint32_t private_bytes;
	uint8_t responder_reads; /* that the peer may have under way here */
	uint8_t initiator_reads; /* that this end may have under way there */
	uint8_t retries;
	uint8_t rnr_retries;
};

/* A connection manager's event, copied and acknowledged. */
struct rv_event {
	uint64_t key; /* of the id that it is for; of the listener for a request */
	struct rv_id *request; /* a request's own id: the caller's, to be destroyed; else null */
	uint32_t kind; /* rdma_cm_event_type */
	int32_t status;
	uint32_t private_bytes;
	uint8_t responder_reads;
	uint8_t initiator_reads;
	uint8_t reserved[2];
	uint8_t private_data[RV_PRIVATE_BYTES];
};

/* What the mirror relies on. */
_Static_assert(sizeof(void *) != 8 || sizeof(struct rv_device_info) == 96, "as in ffi.rs");
_Static_assert(sizeof(struct rv_port_info) == 16, "as in ffi.rs");
_Static_assert(sizeof(struct rv_read) == 40, "as in ffi.rs");
_Static_assert(sizeof(struct rv_completion) == 16, "as in ffi.rs");
_Static_assert(sizeof(void *) != 8 || sizeof(struct rv_connection) == 16, "as in ffi.rs");
_Static_assert(sizeof(void *) != 8 || sizeof(struct rv_event) == 96, "as in ffi.rs");

/* Open the libraries, once; -EOPNOTSUPP when this build has no verbs, -ENOENT with the loader's
 * words in why. */
int rv_load(char *why, uint32_t why_bytes);
/* Memory registrations of this process that stand. */
int64_t rv_registrations(void);

/* All devices; they stay open while any list of them lives. */
int rv_devices_open(struct rv_devices **list);
void rv_devices_close(struct rv_devices *list);
struct rv_device *rv_devices_at(struct rv_devices *list, uint32_t index);
int rv_device_info(struct rv_device *device, struct rv_device_info *info);
int rv_port_info(struct rv_device *device, uint32_t port, struct rv_port_info *info);
int rv_gid(struct rv_device *device, uint32_t port, uint32_t index, uint8_t gid[16]);
int rv_async_fd(struct rv_device *device);
/* The next asynchronous event: 1 a queue pair failed, 4 by an access that was refused, 2 the device
 * failed, 3 other; its name, and the queue pair's number. */
int rv_async_next(struct rv_device *device, uint32_t *qp_number, char *name, uint32_t name_bytes);

int rv_pd_alloc(struct rv_device *device, struct rv_pd **pd);
int rv_pd_free(struct rv_pd *pd);
#define RV_ACCESS_LOCAL_WRITE 1
#define RV_ACCESS_REMOTE_READ 2
#define RV_ACCESS_REMOTE_WRITE 4
int rv_mr_register(struct rv_pd *pd, uint64_t address, uint64_t bytes, uint32_t access, struct rv_mr **mr,
		   uint32_t *lkey, uint32_t *rkey);
int rv_mr_free(struct rv_mr *mr);

int rv_waker_create(struct rv_device *device, struct rv_waker **waker, int *fd);
int rv_waker_destroy(struct rv_waker *waker);
/* A completion queue that wakes through waker, if one is given. */
int rv_cq_create(struct rv_device *device, uint32_t entries, struct rv_waker *waker, struct rv_cq **cq);
int rv_cq_destroy(struct rv_cq *cq);
/* How many completions were put into out, at most RV_COMPLETIONS_MAX. */
int rv_cq_poll(struct rv_cq *cq, struct rv_completion *out, uint32_t count_max);
/* Wake at the next completion. */
int rv_cq_arm(struct rv_cq *cq);
/* Take the wake-ups that came. */
int rv_waker_clear(struct rv_waker *waker, struct rv_cq *cq);
const char *rv_status_name(uint32_t status);

int rv_cm_open(struct rv_cm **cm, int *fd);
void rv_cm_close(struct rv_cm *cm);
int rv_cm_event(struct rv_cm *cm, struct rv_event *event);
const char *rv_event_name(uint32_t kind);

int rv_id_create(struct rv_cm *cm, uint64_t key, struct rv_id **id);
/* Its queue pair must be gone. */
int rv_id_destroy(struct rv_id *id);
void rv_id_set_key(struct rv_id *id, uint64_t key);
int rv_id_ack_timeout(struct rv_id *id, uint8_t exponent);
/* The type of service (RoCE: traffic class) of the connection that it will ask for. */
int rv_id_tos(struct rv_id *id, uint8_t tos);
int rv_id_bind(struct rv_id *id, const uint8_t *address, uint32_t bytes);
int rv_id_listen(struct rv_id *id, uint32_t backlog);
/* The address that it is bound to: its length. */
int rv_id_local(struct rv_id *id, uint8_t address[RV_ADDRESS_BYTES]);
int rv_id_resolve(struct rv_id *id, const uint8_t *from, uint32_t from_bytes, const uint8_t *to, uint32_t to_bytes,
		  uint32_t wait_ms);
int rv_id_route(struct rv_id *id, uint32_t wait_ms);
/* Its device, null if none yet, and the port. */
struct rv_device *rv_id_device(struct rv_id *id, uint32_t *port);
int rv_id_connect(struct rv_id *id, const struct rv_connection *with);
int rv_id_accept(struct rv_id *id, const struct rv_connection *with);
int rv_id_reject(struct rv_id *id, const uint8_t *reason, uint32_t bytes);
int rv_id_disconnect(struct rv_id *id);

/* A reliable-connected queue pair for id. Asks for inline_bytes, and for none where the device
 * gives fewer. */
int rv_qp_create(struct rv_id *id, struct rv_pd *pd, struct rv_cq *cq, uint32_t sends, uint32_t *inline_bytes,
		 uint32_t *number);
/* To the error state: nothing new is carried out, what is under way is flushed. */
int rv_qp_stop(struct rv_id *id);
/* After 0 the device touches no memory through it any more. */
int rv_qp_destroy(struct rv_id *id);
/* All of them, in order, with one doorbell. The memory must stay until they have completed or the
 * queue pair is gone. */
int rv_post_reads(struct rv_id *id, const struct rv_read *reads, uint32_t count);
/* All of them, WRITEs of what lies at local, as rv_post_reads. */
int rv_post_writes(struct rv_id *id, const struct rv_read *writes, uint32_t count);
/* One WRITE of what lies at local; with inline_data it is copied before this returns, else local is
 * under lkey. Only with signaled does it complete by itself, unless it fails. */
int rv_post_write(struct rv_id *id, const struct rv_read *write, uint32_t inline_data, uint32_t signaled);

#endif
