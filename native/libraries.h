/*
 * The functions of libibverbs and librdmacm that are called by name. They are found at run time;
 * the system's headers are there for the types and the inline functions. Of those only
 * ibv_post_send, ibv_poll_cq and ibv_req_notify_cq may be called: they go through the device's own
 * table, while others would need the library at link time.
 */
#ifndef REMORA_LIBRARIES_H
#define REMORA_LIBRARIES_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

/* Macros of the header around the real functions. */
#undef ibv_query_port
#undef ibv_reg_mr

#define RV_IBVERBS(X)                                                                                                  \
	X(ibv_get_device_name)                                                                                         \
	X(ibv_query_device)                                                                                            \
	X(ibv_query_port)                                                                                              \
	X(ibv_query_gid)                                                                                               \
	X(ibv_get_async_event)                                                                                         \
	X(ibv_ack_async_event)                                                                                         \
	X(ibv_event_type_str)                                                                                          \
	X(ibv_wc_status_str)                                                                                           \
	X(ibv_alloc_pd)                                                                                                \
	X(ibv_dealloc_pd)                                                                                              \
	X(ibv_reg_mr)                                                                                                  \
	X(ibv_dereg_mr)                                                                                                \
	X(ibv_create_comp_channel)                                                                                     \
	X(ibv_destroy_comp_channel)                                                                                    \
	X(ibv_create_cq)                                                                                               \
	X(ibv_destroy_cq)                                                                                              \
	X(ibv_get_cq_event)                                                                                            \
	X(ibv_ack_cq_events)                                                                                           \
	X(ibv_modify_qp)                                                                                               \
	X(ibv_destroy_qp)

#define RV_RDMACM(X)                                                                                                   \
	X(rdma_get_devices)                                                                                            \
	X(rdma_free_devices)                                                                                           \
	X(rdma_create_event_channel)                                                                                   \
	X(rdma_destroy_event_channel)                                                                                  \
	X(rdma_get_cm_event)                                                                                           \
	X(rdma_ack_cm_event)                                                                                           \
	X(rdma_event_str)                                                                                              \
	X(rdma_create_id)                                                                                              \
	X(rdma_destroy_id)                                                                                             \
	X(rdma_set_option)                                                                                             \
	X(rdma_bind_addr)                                                                                              \
	X(rdma_listen)                                                                                                 \
	X(rdma_resolve_addr)                                                                                           \
	X(rdma_resolve_route)                                                                                          \
	X(rdma_create_qp)                                                                                              \
	X(rdma_connect)                                                                                                \
	X(rdma_accept)                                                                                                 \
	X(rdma_reject)                                                                                                 \
	X(rdma_disconnect)

/* The library's function `ibv_x` is called as lib.ibv_x. */
struct rv_libraries {
#define RV_MEMBER(name) __typeof__(name) *name;
	RV_IBVERBS(RV_MEMBER)
	RV_RDMACM(RV_MEMBER)
#undef RV_MEMBER
};

extern struct rv_libraries lib;

/* Registrations that stand. */
extern int64_t rv_registrations_live;

/* What a function that answers -1 and errno, or an errno, means: 0 or a negative errno. */
int rv_answer(int answer);
/* Make a descriptor non-blocking. */
int rv_nonblocking(int fd);

#endif
