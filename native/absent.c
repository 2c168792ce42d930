/*
 * Compiled instead of verbs.c where the headers are missing: rv_load says so, and as it failed
 * nothing else is called.
 */
#include "verbs.h"

#include <errno.h>
#include <stddef.h>

#define ABSENT(declaration) declaration { return -EOPNOTSUPP; }
#define ABSENT_NULL(declaration) declaration { return NULL; }
#define ABSENT_VOID(declaration) declaration { }

#pragma GCC diagnostic ignored "-Wunused-parameter"

ABSENT(int rv_load(char *why, uint32_t why_bytes))
int64_t rv_registrations(void) { return 0; }
ABSENT(int rv_devices_open(struct rv_devices **list))
ABSENT_VOID(void rv_devices_close(struct rv_devices *list))
ABSENT_NULL(struct rv_device *rv_devices_at(struct rv_devices *list, uint32_t index))
ABSENT(int rv_device_info(struct rv_device *device, struct rv_device_info *info))
ABSENT(int rv_port_info(struct rv_device *device, uint32_t port, struct rv_port_info *info))
ABSENT(int rv_gid(struct rv_device *device, uint32_t port, uint32_t index, uint8_t gid[16]))
ABSENT(int rv_async_fd(struct rv_device *device))
ABSENT(int rv_async_next(struct rv_device *device, uint32_t *qp_number, char *name, uint32_t name_bytes))
ABSENT(int rv_pd_alloc(struct rv_device *device, struct rv_pd **pd))
ABSENT(int rv_pd_free(struct rv_pd *pd))
ABSENT(int rv_mr_register(struct rv_pd *pd, uint64_t address, uint64_t bytes, uint32_t access, struct rv_mr **mr,
			  uint32_t *lkey, uint32_t *rkey))
ABSENT(int rv_mr_free(struct rv_mr *mr))
ABSENT(int rv_waker_create(struct rv_device *device, struct rv_waker **waker, int *fd))
ABSENT(int rv_waker_destroy(struct rv_waker *waker))
ABSENT(int rv_cq_create(struct rv_device *device, uint32_t entries, struct rv_waker *waker, struct rv_cq **cq))
ABSENT(int rv_cq_destroy(struct rv_cq *cq))
ABSENT(int rv_cq_poll(struct rv_cq *cq, struct rv_completion *out, uint32_t count_max))
ABSENT(int rv_cq_arm(struct rv_cq *cq))
ABSENT(int rv_waker_clear(struct rv_waker *waker, struct rv_cq *cq))
ABSENT_NULL(const char *rv_status_name(uint32_t status))
ABSENT(int rv_cm_open(struct rv_cm **cm, int *fd))
ABSENT_VOID(void rv_cm_close(struct rv_cm *cm))
ABSENT(int rv_cm_event(struct rv_cm *cm, struct rv_event *event))
ABSENT_NULL(const char *rv_event_name(uint32_t kind))
ABSENT(int rv_id_create(struct rv_cm *cm, uint64_t key, struct rv_id **id))
ABSENT(int rv_id_destroy(struct rv_id *id))
ABSENT_VOID(void rv_id_set_key(struct rv_id *id, uint64_t key))
ABSENT(int rv_id_ack_timeout(struct rv_id *id, uint8_t exponent))
ABSENT(int rv_id_tos(struct rv_id *id, uint8_t tos))
ABSENT(int rv_id_bind(struct rv_id *id, const uint8_t *address, uint32_t bytes))
ABSENT(int rv_id_listen(struct rv_id *id, uint32_t backlog))
ABSENT(int rv_id_local(struct rv_id *id, uint8_t address[RV_ADDRESS_BYTES]))
ABSENT(int rv_id_resolve(struct rv_id *id, const uint8_t *from, uint32_t from_bytes, const uint8_t *to,
			 uint32_t to_bytes, uint32_t wait_ms))
ABSENT(int rv_id_route(struct rv_id *id, uint32_t wait_ms))
ABSENT_NULL(struct rv_device *rv_id_device(struct rv_id *id, uint32_t *port))
ABSENT(int rv_id_connect(struct rv_id *id, const struct rv_connection *with))
ABSENT(int rv_id_accept(struct rv_id *id, const struct rv_connection *with))
ABSENT(int rv_id_reject(struct rv_id *id, const uint8_t *reason, uint32_t bytes))
ABSENT(int rv_id_disconnect(struct rv_id *id))
ABSENT(int rv_qp_create(struct rv_id *id, struct rv_pd *pd, struct rv_cq *cq, uint32_t sends, uint32_t *inline_bytes,
			uint32_t *number))
ABSENT(int rv_qp_stop(struct rv_id *id))
ABSENT(int rv_qp_destroy(struct rv_id *id))
ABSENT(int rv_post_reads(struct rv_id *id, const struct rv_read *reads, uint32_t count))
ABSENT(int rv_post_writes(struct rv_id *id, const struct rv_read *writes, uint32_t count))
ABSENT(int rv_post_write(struct rv_id *id, const struct rv_read *write, uint32_t inline_data,
			 uint32_t signaled))
