/*
 * RDMA CM and queue pairs.
 */
#include "libraries.h"
#include "verbs.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

static struct rdma_event_channel *cm_of(struct rv_cm *cm) { return (struct rdma_event_channel *)cm; }
static struct rdma_cm_id *id_of(struct rv_id *id) { return (struct rdma_cm_id *)id; }

int rv_cm_open(struct rv_cm **cm, int *fd)
{
	errno = 0;
	struct rdma_event_channel *made = lib.rdma_create_event_channel();
	if (!made)
		return errno > 0 ? -errno : -ENODEV;
	int failed = rv_nonblocking(made->fd);
	if (failed) {
		lib.rdma_destroy_event_channel(made);
		return failed;
	}
	*cm = (struct rv_cm *)made;
	*fd = made->fd;
	return 0;
}

void rv_cm_close(struct rv_cm *cm) { lib.rdma_destroy_event_channel(cm_of(cm)); }

int rv_cm_event(struct rv_cm *cm, struct rv_event *event)
{
	struct rdma_cm_event *got;
	errno = 0;
	if (lib.rdma_get_cm_event(cm_of(cm), &got))
		return errno > 0 ? -errno : -EIO;
	memset(event, 0, sizeof(*event));
	int is_request = got->event == RDMA_CM_EVENT_CONNECT_REQUEST;
	struct rdma_cm_id *about = is_request ? got->listen_id : got->id;
	event->key = (uint64_t)(uintptr_t)about->context;
	event->request = is_request ? (struct rv_id *)got->id : NULL;
	event->kind = (uint32_t)got->event;
	event->status = got->status;
	switch (got->event) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
	case RDMA_CM_EVENT_ESTABLISHED:
	case RDMA_CM_EVENT_REJECTED:
		event->responder_reads = got->param.conn.responder_resources;
		event->initiator_reads = got->param.conn.initiator_depth;
		event->private_bytes = got->param.conn.private_data ? got->param.conn.private_data_len : 0;
		if (event->private_bytes > RV_PRIVATE_BYTES)
			event->private_bytes = RV_PRIVATE_BYTES;
		memcpy(event->private_data, got->param.conn.private_data, event->private_bytes);
		break;
	default:
		break;
	}
	/* At once: an id cannot be destroyed by another thread before its events are acknowledged. */
	lib.rdma_ack_cm_event(got);
	return 0;
}

const char *rv_event_name(uint32_t kind) { return lib.rdma_event_str((enum rdma_cm_event_type)kind); }

int rv_id_create(struct rv_cm *cm, uint64_t key, struct rv_id **id)
{
	struct rdma_cm_id *made;
	errno = 0;
	int failed = rv_answer(lib.rdma_create_id(cm_of(cm), &made, (void *)(uintptr_t)key, RDMA_PS_TCP));
	if (!failed)
		*id = (struct rv_id *)made;
	return failed;
}

int rv_id_destroy(struct rv_id *id) { return rv_answer(lib.rdma_destroy_id(id_of(id))); }

void rv_id_set_key(struct rv_id *id, uint64_t key) { id_of(id)->context = (void *)(uintptr_t)key; }

int rv_id_ack_timeout(struct rv_id *id, uint8_t exponent)
{
	return rv_answer(lib.rdma_set_option(id_of(id), RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &exponent,
					     sizeof(exponent)));
}

int rv_id_tos(struct rv_id *id, uint8_t tos)
{
	return rv_answer(lib.rdma_set_option(id_of(id), RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &tos, sizeof(tos)));
}

/* A copy that is aligned, and long enough for what the library reads of it. */
static struct sockaddr *address_of(struct sockaddr_storage *room, const uint8_t *address, uint32_t bytes)
{
	memset(room, 0, sizeof(*room));
	memcpy(room, address, bytes > RV_ADDRESS_BYTES ? RV_ADDRESS_BYTES : bytes);
	return (struct sockaddr *)room;
}

int rv_id_bind(struct rv_id *id, const uint8_t *address, uint32_t bytes)
{
	struct sockaddr_storage room;
	return rv_answer(lib.rdma_bind_addr(id_of(id), address_of(&room, address, bytes)));
}

int rv_id_listen(struct rv_id *id, uint32_t backlog) { return rv_answer(lib.rdma_listen(id_of(id), (int)backlog)); }

int rv_id_local(struct rv_id *id, uint8_t address[RV_ADDRESS_BYTES])
{
	struct sockaddr *local = rdma_get_local_addr(id_of(id));
	int bytes = local->sa_family == AF_INET6 ? (int)sizeof(struct sockaddr_in6) : (int)sizeof(struct sockaddr_in);
	memcpy(address, local, (size_t)bytes);
	return bytes;
}

int rv_id_resolve(struct rv_id *id, const uint8_t *from, uint32_t from_bytes, const uint8_t *to, uint32_t to_bytes,
		  uint32_t wait_ms)
{
	struct sockaddr_storage from_room, to_room;
	struct sockaddr *source = from_bytes ? address_of(&from_room, from, from_bytes) : NULL;
	return rv_answer(
		lib.rdma_resolve_addr(id_of(id), source, address_of(&to_room, to, to_bytes), (int)wait_ms));
}

int rv_id_route(struct rv_id *id, uint32_t wait_ms)
{
	return rv_answer(lib.rdma_resolve_route(id_of(id), (int)wait_ms));
}

struct rv_device *rv_id_device(struct rv_id *id, uint32_t *port)
{
	*port = id_of(id)->port_num;
	return (struct rv_device *)id_of(id)->verbs;
}

static struct rdma_conn_param parameters(const struct rv_connection *with)
{
	struct rdma_conn_param with_all;
	memset(&with_all, 0, sizeof(with_all));
	with_all.private_data = with->private_data;
	with_all.private_data_len = (uint8_t)with->private_bytes;
	with_all.responder_resources = with->responder_reads;
	with_all.initiator_depth = with->initiator_reads;
	with_all.retry_count = with->retries;
	with_all.rnr_retry_count = with->rnr_retries;
	return with_all;
}

int rv_id_connect(struct rv_id *id, const struct rv_connection *with)
{
	struct rdma_conn_param all = parameters(with);
	return rv_answer(lib.rdma_connect(id_of(id), &all));
}

int rv_id_accept(struct rv_id *id, const struct rv_connection *with)
{
	struct rdma_conn_param all = parameters(with);
	return rv_answer(lib.rdma_accept(id_of(id), &all));
}

int rv_id_reject(struct rv_id *id, const uint8_t *reason, uint32_t bytes)
{
	return rv_answer(lib.rdma_reject(id_of(id), reason, (uint8_t)bytes));
}

int rv_id_disconnect(struct rv_id *id) { return rv_answer(lib.rdma_disconnect(id_of(id))); }

int rv_qp_create(struct rv_id *id, struct rv_pd *pd, struct rv_cq *cq, uint32_t sends, uint32_t *inline_bytes,
		 uint32_t *number)
{
	struct ibv_qp_init_attr attr;
	uint32_t wanted = *inline_bytes;
	int failed = 0;
	/* Some devices refuse what they cannot give, others give less: then once more without any. */
	for (int attempt = 0; attempt < 2; attempt++) {
		memset(&attr, 0, sizeof(attr));
		attr.qp_type = IBV_QPT_RC;
		attr.send_cq = (struct ibv_cq *)cq;
		attr.recv_cq = (struct ibv_cq *)cq;
		attr.cap.max_send_wr = sends;
		attr.cap.max_recv_wr = 1; /* nothing is ever received; some devices take no 0 */
		attr.cap.max_send_sge = 1;
		attr.cap.max_recv_sge = 1;
		attr.cap.max_inline_data = attempt ? 0 : wanted;
		errno = 0;
		failed = rv_answer(lib.rdma_create_qp(id_of(id), (struct ibv_pd *)pd, &attr));
		if (!failed || !wanted)
			break;
	}
	if (failed)
		return failed;
	*inline_bytes = attr.cap.max_inline_data;
	*number = id_of(id)->qp->qp_num;
	return 0;
}

int rv_qp_stop(struct rv_id *id)
{
	struct ibv_qp_attr attr;
	if (!id_of(id)->qp)
		return 0;
	memset(&attr, 0, sizeof(attr));
	attr.qp_state = IBV_QPS_ERR;
	return rv_answer(lib.ibv_modify_qp(id_of(id)->qp, &attr, IBV_QP_STATE));
}

int rv_qp_destroy(struct rv_id *id)
{
	if (!id_of(id)->qp)
		return 0;
	/* As rdma_destroy_qp does, which keeps the outcome to itself. */
	int failed = rv_answer(lib.ibv_destroy_qp(id_of(id)->qp));
	if (!failed)
		id_of(id)->qp = NULL;
	return failed;
}

static int post(struct rv_id *id, const struct rv_read *transfers, uint32_t count, enum ibv_wr_opcode opcode)
{
	struct ibv_send_wr requests[RV_READS_MAX], *refused = NULL;
	struct ibv_sge places[RV_READS_MAX];
	if (count == 0 || count > RV_READS_MAX)
		return -EINVAL;
	memset(requests, 0, sizeof(requests[0]) * count);
	for (uint32_t at = 0; at < count; at++) {
		places[at].addr = transfers[at].local;
		places[at].length = transfers[at].bytes;
		places[at].lkey = transfers[at].lkey;
		requests[at].wr_id = transfers[at].tag;
		requests[at].next = at + 1 < count ? &requests[at + 1] : NULL;
		requests[at].sg_list = &places[at];
		requests[at].num_sge = 1;
		requests[at].opcode = opcode;
		requests[at].send_flags = IBV_SEND_SIGNALED;
		requests[at].wr.rdma.remote_addr = transfers[at].remote;
		requests[at].wr.rdma.rkey = transfers[at].rkey;
	}
	return rv_answer(ibv_post_send(id_of(id)->qp, requests, &refused));
}

int rv_post_reads(struct rv_id *id, const struct rv_read *reads, uint32_t count)
{
	return post(id, reads, count, IBV_WR_RDMA_READ);
}

int rv_post_writes(struct rv_id *id, const struct rv_read *writes, uint32_t count)
{
	return post(id, writes, count, IBV_WR_RDMA_WRITE);
}

int rv_post_write(struct rv_id *id, const struct rv_read *write, uint32_t inline_data, uint32_t signaled)
{
	struct ibv_send_wr request, *refused = NULL;
	struct ibv_sge place = { .addr = write->local, .length = write->bytes, .lkey = write->lkey };
	memset(&request, 0, sizeof(request));
	request.wr_id = write->tag;
	request.sg_list = &place;
	request.num_sge = 1;
	request.opcode = IBV_WR_RDMA_WRITE;
	request.send_flags = (signaled ? IBV_SEND_SIGNALED : 0) | (inline_data ? IBV_SEND_INLINE : 0);
	request.wr.rdma.remote_addr = write->remote;
	request.wr.rdma.rkey = write->rkey;
	return rv_answer(ibv_post_send(id_of(id)->qp, &request, &refused));
}
