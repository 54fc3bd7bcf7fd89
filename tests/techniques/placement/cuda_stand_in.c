/* A stand-in for libcuda's calls for virtual memory, on ordinary memory, by what cuda.h says of them: strict
 * where the driver may be lenient. Addresses that nothing is mapped to, or that were given no access, fault
 * when they are touched. GRANULARITY: the least that is mapped. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef GRANULARITY
#define GRANULARITY (2ull << 20)
#endif
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101 };
enum { DEVICES = 1, MOST = 1 << 16 };

typedef struct { int type, id; } Location;
typedef struct {
    int type, handle_types;
    Location location;
    void *win32;
    struct { unsigned char compression, rdma; unsigned short usage; unsigned char reserved[4]; } flags;
} Properties;
typedef struct { Location location; int flags; } Access;

typedef struct { uint64_t address, size; } Range;
typedef struct { int file, released; uint64_t size, mappings; } Memory;
typedef struct { uint64_t address, size; int memory; } Mapping;

static Range ranges[MOST];
static Memory memories[MOST];   /* a handle is an index and 1; used ones are not given out again */
static Mapping mappings[MOST];
static int num_ranges, num_memories, num_mappings;
static uint64_t taken, capacity = UINT64_MAX;

/* For tests: how much memory there is, and what of it is taken. */
void stand_in_capacity(uint64_t nbytes) { capacity = nbytes; }
uint64_t stand_in_taken(void) { return taken; }
int stand_in_ranges(void) { return num_ranges; }
int stand_in_mappings(void) { return num_mappings; }

static int aligned(uint64_t n) { return n % GRANULARITY == 0; }

static int known(const Properties *p) {
    static const Properties none;
    if (!p || p->type != 1 || p->handle_types || p->win32 || memcmp(&p->flags, &none.flags, sizeof none.flags))
        return INVALID_VALUE;
    if (p->location.type != 1) return INVALID_VALUE;
    return p->location.id < 0 || p->location.id >= DEVICES ? INVALID_DEVICE : SUCCESS;
}

static void collect(Memory *m) {
    if (m->released && !m->mappings && m->file >= 0) {
        close(m->file);
        m->file = -1;
        taken -= m->size;
    }
}

int cuGetErrorName(int error, const char **name) {
    *name = error == SUCCESS          ? "CUDA_SUCCESS"
            : error == INVALID_VALUE  ? "CUDA_ERROR_INVALID_VALUE"
            : error == OUT_OF_MEMORY  ? "CUDA_ERROR_OUT_OF_MEMORY"
            : error == INVALID_DEVICE ? "CUDA_ERROR_INVALID_DEVICE"
                                      : NULL;
    return *name ? SUCCESS : INVALID_VALUE;
}

int cuMemGetAllocationGranularity(size_t *granularity, const Properties *p, int option) {
    int code = known(p);
    if (code || !granularity || option < 0 || option > 1) return code ? code : INVALID_VALUE;
    *granularity = GRANULARITY;
    return SUCCESS;
}

int cuMemAddressReserve(uint64_t *address, size_t size, size_t alignment, uint64_t hint, uint64_t flags) {
    if (!size || size % sysconf(_SC_PAGESIZE) || alignment & (alignment - 1) || flags) return INVALID_VALUE;
    (void)hint;
    uint64_t unit = alignment > GRANULARITY ? alignment : GRANULARITY, more = size + unit;
    char *at = mmap(NULL, more, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || num_ranges == MOST) return OUT_OF_MEMORY;
    uint64_t begin = ((uint64_t)at + unit - 1) / unit * unit, end = begin + size, last = (uint64_t)at + more;
    if (begin > (uint64_t)at) munmap(at, begin - (uint64_t)at);
    if (last > end) munmap((void *)end, last - end);
    ranges[num_ranges++] = (Range){begin, size};
    *address = begin;
    return SUCCESS;
}

int cuMemAddressFree(uint64_t address, size_t size) {
    for (int i = 0; i < num_mappings; i++)
        if (mappings[i].address >= address && mappings[i].address < address + size) return INVALID_VALUE;
    for (int i = 0; i < num_ranges; i++)
        if (ranges[i].address == address && ranges[i].size == size) {
            munmap((void *)address, size);
            ranges[i] = ranges[--num_ranges];
            return SUCCESS;
        }
    return INVALID_VALUE;
}

int cuMemCreate(uint64_t *handle, size_t size, const Properties *p, uint64_t flags) {
    int code = known(p);
    if (code || !size || !aligned(size) || flags) return code ? code : INVALID_VALUE;
    if (size > capacity - taken || num_memories == MOST) return OUT_OF_MEMORY;
    int file = memfd_create("stand-in", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, size)) return OUT_OF_MEMORY;
    taken += size;
    memories[num_memories++] = (Memory){file, 0, size, 0};
    *handle = num_memories;
    return SUCCESS;
}

int cuMemRelease(uint64_t handle) {
    if (!handle || handle > (uint64_t)num_memories || memories[handle - 1].released) return INVALID_VALUE;
    memories[handle - 1].released = 1;
    collect(&memories[handle - 1]);
    return SUCCESS;
}

int cuMemMap(uint64_t address, size_t size, size_t offset, uint64_t handle, uint64_t flags) {
    if (!handle || handle > (uint64_t)num_memories || memories[handle - 1].released) return INVALID_VALUE;
    Memory *m = &memories[handle - 1];
    if (!size || offset || flags || !aligned(address) || !aligned(size) || size > m->size) return INVALID_VALUE;
    int reserved = 0;
    for (int i = 0; i < num_ranges; i++)
        reserved |= address >= ranges[i].address && address + size <= ranges[i].address + ranges[i].size;
    for (int i = 0; i < num_mappings; i++)
        if (address < mappings[i].address + mappings[i].size && mappings[i].address < address + size)
            return INVALID_VALUE;
    if (!reserved || num_mappings == MOST) return INVALID_VALUE;
    if (mmap((void *)address, size, PROT_NONE, MAP_SHARED | MAP_FIXED, m->file, 0) == MAP_FAILED)
        return OUT_OF_MEMORY;
    m->mappings++;
    mappings[num_mappings++] = (Mapping){address, size, (int)handle - 1};
    return SUCCESS;
}

int cuMemSetAccess(uint64_t address, size_t size, const Access *access, size_t count) {
    if (count != 1 || access->location.type != 1 || !size) return INVALID_VALUE;
    if (access->location.id < 0 || access->location.id >= DEVICES) return INVALID_DEVICE;
    uint64_t covered = 0;
    for (int i = 0; i < num_mappings; i++) {
        uint64_t first = mappings[i].address, end = first + mappings[i].size;
        if (first < address + size && address < end) {
            if (first < address || end > address + size) return INVALID_VALUE;
            covered += mappings[i].size;
        }
    }
    if (covered != size) return INVALID_VALUE;
    int protection = access->flags == 3 ? PROT_READ | PROT_WRITE : access->flags == 1 ? PROT_READ : PROT_NONE;
    return mprotect((void *)address, size, protection) ? INVALID_VALUE : SUCCESS;
}

int cuMemUnmap(uint64_t address, size_t size) {
    for (int i = 0; i < num_mappings; i++)
        if (mappings[i].address == address && mappings[i].size == size) {
            mmap((void *)address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
            Memory *m = &memories[mappings[i].memory];
            m->mappings--;
            mappings[i] = mappings[--num_mappings];
            collect(m);
            return SUCCESS;
        }
    return INVALID_VALUE;
}
