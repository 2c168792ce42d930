/*
 * Devices, protection domains, memory, completion queues.
 */
#include "libraries.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct ibv_context *context_of(struct rv_device *device) { return (struct ibv_context *)device; }
static struct ibv_pd *pd_of(struct rv_pd *pd) { return (struct ibv_pd *)pd; }
static struct ibv_cq *cq_of(struct rv_cq *cq) { return (struct ibv_cq *)cq; }
static struct ibv_comp_channel *channel_of(struct rv_waker *waker) { return (struct ibv_comp_channel *)waker; }

int rv_devices_open(struct rv_devices **list)
{
	errno = 0;
	struct ibv_context **contexts = lib.rdma_get_devices(NULL);
	if (!contexts)
		return errno > 0 ? -errno : -ENODEV;
	*list = (struct rv_devices *)contexts;
	return 0;
}

void rv_devices_close(struct rv_devices *list) { lib.rdma_free_devices((struct ibv_context **)list); }

struct rv_device *rv_devices_at(struct rv_devices *list, uint32_t index)
{
	struct ibv_context **contexts = (struct ibv_context **)list;
	for (uint32_t at = 0; contexts[at]; at++)
		if (at == index)
			return (struct rv_device *)contexts[at];
	return NULL;
}

int rv_device_info(struct rv_device *device, struct rv_device_info *info)
{
	struct ibv_context *context = context_of(device);
	struct ibv_device_attr attr;
	int failed = rv_answer(lib.ibv_query_device(context, &attr));
	if (failed)
		return failed;
	memset(info, 0, sizeof(*info));
	snprintf(info->name, sizeof(info->name), "%s", lib.ibv_get_device_name(context->device));
	info->mr_bytes_max = attr.max_mr_size;
	info->ports = attr.phys_port_cnt;
	info->transport = (uint32_t)context->device->transport_type;
	info->responder_reads_max = attr.max_qp_rd_atom > 0 ? (uint32_t)attr.max_qp_rd_atom : 0;
	info->initiator_reads_max = attr.max_qp_init_rd_atom > 0 ? (uint32_t)attr.max_qp_init_rd_atom : 0;
	info->qp_max = attr.max_qp > 0 ? (uint32_t)attr.max_qp : 0;
	info->mr_max = attr.max_mr > 0 ? (uint32_t)attr.max_mr : 0;
	return 0;
}

int rv_port_info(struct rv_device *device, uint32_t port, struct rv_port_info *info)
{
	struct ibv_context *context = context_of(device);
	struct ibv_port_attr attr;
	memset(&attr, 0, sizeof(attr));
	/* As the header's inline function does it: the whole structure through the table, else an older,
	 * shorter one. */
	struct verbs_context *extended = verbs_get_ctx_op(context, query_port);
	int answer = extended ? extended->query_port(context, (uint8_t)port, &attr, sizeof(attr))
			      : lib.ibv_query_port(context, (uint8_t)port, (struct _compat_ibv_port_attr *)&attr);
	if (answer)
		return rv_answer(answer);
	info->active = attr.state == IBV_PORT_ACTIVE;
	info->ethernet = attr.link_layer == IBV_LINK_LAYER_ETHERNET;
	info->gids = attr.gid_tbl_len > 0 ? (uint32_t)attr.gid_tbl_len : 0;
	info->mtu_bytes = 128u << attr.active_mtu;
	return 0;
}

int rv_gid(struct rv_device *device, uint32_t port, uint32_t index, uint8_t gid[16])
{
	union ibv_gid found;
	errno = 0;
	int failed = rv_answer(lib.ibv_query_gid(context_of(device), (uint8_t)port, (int)index, &found));
	if (!failed)
		memcpy(gid, found.raw, 16);
	return failed;
}

int rv_async_fd(struct rv_device *device)
{
	int fd = context_of(device)->async_fd;
	int failed = rv_nonblocking(fd);
	return failed ? failed : fd;
}

int rv_async_next(struct rv_device *device, uint32_t *qp_number, char *name, uint32_t name_bytes)
{
	struct ibv_async_event event;
	errno = 0;
	if (lib.ibv_get_async_event(context_of(device), &event))
		return errno > 0 ? -errno : -EAGAIN;
	int about = 3;
	*qp_number = 0;
	snprintf(name, name_bytes, "%s", lib.ibv_event_type_str(event.event_type));
	switch (event.event_type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
		*qp_number = event.element.qp->qp_num;
		about = event.event_type == IBV_EVENT_QP_ACCESS_ERR ? 4 : 1;
		break;
	case IBV_EVENT_DEVICE_FATAL:
		about = 2;
		break;
	default:
		break;
	}
	/* At once: a queue pair cannot be destroyed before its events are acknowledged. */
	lib.ibv_ack_async_event(&event);
	return about;
}

int rv_pd_alloc(struct rv_device *device, struct rv_pd **pd)
{
	errno = 0;
	struct ibv_pd *made = lib.ibv_alloc_pd(context_of(device));
	if (!made)
		return rv_answer(-1);
	*pd = (struct rv_pd *)made;
	return 0;
}

int rv_pd_free(struct rv_pd *pd) { return rv_answer(lib.ibv_dealloc_pd(pd_of(pd))); }

int rv_mr_register(struct rv_pd *pd, uint64_t address, uint64_t bytes, uint32_t access, struct rv_mr **mr,
		   uint32_t *lkey, uint32_t *rkey)
{
	int flags = 0;
	if (access & RV_ACCESS_LOCAL_WRITE)
		flags |= IBV_ACCESS_LOCAL_WRITE;
	if (access & RV_ACCESS_REMOTE_READ)
		flags |= IBV_ACCESS_REMOTE_READ;
	if (access & RV_ACCESS_REMOTE_WRITE)
		flags |= IBV_ACCESS_REMOTE_WRITE;
	errno = 0;
	struct ibv_mr *made = lib.ibv_reg_mr(pd_of(pd), (void *)(uintptr_t)address, bytes, flags);
	if (!made)
		return rv_answer(-1);
	__atomic_add_fetch(&rv_registrations_live, 1, __ATOMIC_SEQ_CST);
	*mr = (struct rv_mr *)made;
	*lkey = made->lkey;
	*rkey = made->rkey;
	return 0;
}

int rv_mr_free(struct rv_mr *mr)
{
	int failed = rv_answer(lib.ibv_dereg_mr((struct ibv_mr *)mr));
	if (!failed)
		__atomic_sub_fetch(&rv_registrations_live, 1, __ATOMIC_SEQ_CST);
	return failed;
}

int rv_waker_create(struct rv_device *device, struct rv_waker **waker, int *fd)
{
	errno = 0;
	struct ibv_comp_channel *made = lib.ibv_create_comp_channel(context_of(device));
	if (!made)
		return rv_answer(-1);
	int failed = rv_nonblocking(made->fd);
	if (failed) {
		lib.ibv_destroy_comp_channel(made);
		return failed;
	}
	*waker = (struct rv_waker *)made;
	*fd = made->fd;
	return 0;
}

int rv_waker_destroy(struct rv_waker *waker) { return rv_answer(lib.ibv_destroy_comp_channel(channel_of(waker))); }

int rv_cq_create(struct rv_device *device, uint32_t entries, struct rv_waker *waker, struct rv_cq **cq)
{
	errno = 0;
	struct ibv_cq *made = lib.ibv_create_cq(context_of(device), (int)entries, NULL, channel_of(waker), 0);
	if (!made)
		return rv_answer(-1);
	*cq = (struct rv_cq *)made;
	return 0;
}

int rv_cq_destroy(struct rv_cq *cq) { return rv_answer(lib.ibv_destroy_cq(cq_of(cq))); }

int rv_cq_poll(struct rv_cq *cq, struct rv_completion *out, uint32_t count_max)
{
	struct ibv_wc found[RV_COMPLETIONS_MAX];
	if (count_max > RV_COMPLETIONS_MAX)
		count_max = RV_COMPLETIONS_MAX;
	int count = ibv_poll_cq(cq_of(cq), (int)count_max, found);
	if (count < 0)
		return -EIO;
	for (int at = 0; at < count; at++) {
		out[at].tag = found[at].wr_id;
		out[at].status = (uint32_t)found[at].status;
		out[at].vendor = found[at].vendor_err;
	}
	return count;
}

int rv_cq_arm(struct rv_cq *cq) { return rv_answer(ibv_req_notify_cq(cq_of(cq), 0)); }

int rv_waker_clear(struct rv_waker *waker, struct rv_cq *cq)
{
	struct ibv_cq *of;
	void *context;
	unsigned int count = 0;
	/* One event an arming, so this ends. */
	while (lib.ibv_get_cq_event(channel_of(waker), &of, &context) == 0)
		count++;
	if (count)
		lib.ibv_ack_cq_events(cq_of(cq), count);
	return (int)count;
}

const char *rv_status_name(uint32_t status) { return lib.ibv_wc_status_str((enum ibv_wc_status)status); }
