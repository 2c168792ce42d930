/*
 * Opening libibverbs and librdmacm, and what the other files share.
 */
#define _GNU_SOURCE
#include "libraries.h"
#include "verbs.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

struct rv_libraries lib;
int64_t rv_registrations_live;

int rv_answer(int answer)
{
	if (answer == 0)
		return 0;
	if (answer > 0) /* some functions return the errno itself */
		return -answer;
	return errno > 0 ? -errno : -EIO;
}

int rv_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

/* The function of that name, or null with the reason in why. dlsym answers with the newest version
 * of a name. */
static void *find(void *library, const char *name, char *why, uint32_t why_bytes)
{
	void *found = dlsym(library, name);
	if (!found)
		snprintf(why, why_bytes, "%s", dlerror());
	return found;
}

int rv_load(char *why, uint32_t why_bytes)
{
	/* Never closed: what the libraries made may live as long as the process. */
	void *ibverbs = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_GLOBAL);
	void *rdmacm = ibverbs ? dlopen("librdmacm.so.1", RTLD_NOW | RTLD_GLOBAL) : NULL;
	if (!rdmacm) {
		snprintf(why, why_bytes, "%s", dlerror());
		return -ENOENT;
	}
#define RV_FIND(library, name)                                                                                         \
	lib.name = (__typeof__(lib.name))find(library, #name, why, why_bytes);                                         \
	if (!lib.name)                                                                                                 \
		return -ENOENT;
#define RV_FIND_IBVERBS(name) RV_FIND(ibverbs, name)
#define RV_FIND_RDMACM(name) RV_FIND(rdmacm, name)
	RV_IBVERBS(RV_FIND_IBVERBS)
	RV_RDMACM(RV_FIND_RDMACM)
	return 0;
}

int64_t rv_registrations(void)
{
	return __atomic_load_n(&rv_registrations_live, __ATOMIC_SEQ_CST);
}
