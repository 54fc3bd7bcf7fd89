// Microbenchmarks of what an NVIDIA GPU is made of: latency of each memory level, distributed shared memory, bulk
// copies by the TMA unit, DPX instructions. Compiled into a shared library with a plain C interface; every function
// returns its figure, or a negative CUDA error code.
//
// What to measure follows Luo et al., "Benchmarking and dissecting the Nvidia Hopper GPU architecture", IPDPS 2024; how
// follows Mei and Chu, "Dissecting GPU memory hierarchy through microbenchmarking", IEEE TPDS 2017 (chains of loads).
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace cg = cooperative_groups;

namespace {

constexpr int kFailed = -1000000;

// Milliseconds of `launch`, fastest of three after one that warms up; negative where it fails.
template <typename Launch>
double milliseconds(const Launch& launch) {
  cudaEvent_t start, stop;
  cudaEventCreate(&start);
  cudaEventCreate(&stop);
  double best = -1.0;
  for (int turn = 0; turn < 4; ++turn) {
    cudaEventRecord(start);
    launch();
    cudaEventRecord(stop);
    if (cudaEventSynchronize(stop) != cudaSuccess || cudaGetLastError() != cudaSuccess) {
      best = kFailed;
      break;
    }
    float taken = 0.0f;
    cudaEventElapsedTime(&taken, start, stop);
    if (turn > 0 && (best < 0.0 || taken < best)) best = taken;
  }
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  return best;
}

// A cycle through `lines` places in random order (Sattolo's algorithm).
std::vector<uint32_t> cycle(size_t lines) {
  std::vector<uint32_t> next(lines);
  for (size_t i = 0; i < lines; ++i) next[i] = static_cast<uint32_t>(i);
  std::mt19937_64 random(1);
  for (size_t i = lines - 1; i > 0; --i) std::swap(next[i], next[random() % i]);
  return next;
}

// One thread follows the chain; `past_l1`: loads that only the L2 may answer.
__global__ void chase(const uint32_t* chain, long loads, uint32_t stride, bool past_l1, uint32_t* sink) {
  uint32_t at = 0;
  if (past_l1) {
    for (long i = 0; i < loads; ++i) at = __ldcg(chain + static_cast<size_t>(at) * stride);
  } else {
    for (long i = 0; i < loads; ++i) at = __ldca(chain + static_cast<size_t>(at) * stride);
  }
  *sink = at;
}

constexpr int kShared = 4096;  // words of the chain in shared memory

__device__ void fill_shared(uint32_t* shared) {
  for (int i = threadIdx.x; i < kShared; i += blockDim.x) shared[i] = (i + 577) % kShared;  // 577 is coprime to 4096
}

__global__ void chase_shared(long loads, uint32_t* sink) {
  __shared__ uint32_t shared[kShared];
  fill_shared(shared);
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t at = 0;
    for (long i = 0; i < loads; ++i) at = shared[at];
    *sink = at;
  }
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define TWOFOLD_CLUSTERS
#endif

// The first block of a cluster follows the chain in the second one's shared memory.
__global__ void chase_cluster(long loads, uint32_t* sink) {
#if defined(TWOFOLD_CLUSTERS)
  __shared__ uint32_t shared[kShared];
  fill_shared(shared);
  auto cluster = cg::this_cluster();
  cluster.sync();
  if (cluster.block_rank() == 0 && threadIdx.x == 0) {
    const uint32_t* other = cluster.map_shared_rank(shared, 1);
    uint32_t at = 0;
    for (long i = 0; i < loads; ++i) at = other[at];
    *sink = at;
  }
  cluster.sync();  // nobody leaves while its memory is read
#endif
}

// Every block reads its neighbour's shared memory, 16 bytes per thread and turn.
__global__ void read_cluster(int turns, uint32_t* sink) {
#if defined(TWOFOLD_CLUSTERS)
  __shared__ alignas(16) uint32_t shared[kShared];
  fill_shared(shared);
  auto cluster = cg::this_cluster();
  cluster.sync();
  const unsigned neighbour = (cluster.block_rank() + 1) % cluster.num_blocks();
  const uint4* other = reinterpret_cast<const uint4*>(cluster.map_shared_rank(shared, neighbour));
  uint4 sum = {0, 0, 0, 0};
  for (int turn = 0; turn < turns; ++turn) {
    for (int i = threadIdx.x; i < kShared / 4; i += blockDim.x) {
      const uint4 v = other[i];
      sum.x ^= v.x + turn;
      sum.y ^= v.y;
      sum.z ^= v.z;
      sum.w ^= v.w;
    }
  }
  if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0xffffffffu) *sink = sum.x;  // never, but the compiler cannot know
  cluster.sync();
#endif
}

// Bulk copies from memory to shared memory, one at a time per block, by the TMA unit.
__global__ void bulk_copies(const char* source, size_t region, int nbytes, int turns, uint32_t* sink) {
#if defined(TWOFOLD_CLUSTERS)
  extern __shared__ __align__(128) char buffer[];
  __shared__ __align__(8) uint64_t barrier;
  const uint32_t bar = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(buffer));
  if (threadIdx.x != 0) return;
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  for (int turn = 0; turn < turns; ++turn) {
    const size_t offset = (static_cast<size_t>(turn) * gridDim.x + blockIdx.x) * nbytes % region;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(nbytes) : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(source + offset), "r"(nbytes), "r"(bar)
        : "memory");
    uint32_t done = 0;
    while (!done) {
      asm volatile(
          "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
          : "=r"(done)
          : "r"(bar), "r"(turn & 1)
          : "memory");
    }
  }
  if (buffer[0] == 127) *sink = 1;
#endif
}

// Eight independent chains per thread of max(max(a + b, c), 0), one DPX instruction where the GPU has them.
__global__ void dpx(int turns, int* sink) {
  int v[8];
  for (int i = 0; i < 8; ++i) v[i] = static_cast<int>(threadIdx.x) + i;
  const int b = static_cast<int>(blockIdx.x) & 3, c = static_cast<int>(threadIdx.x) & 7;
  for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = __viaddmax_s32_relu(v[i], b, c);
  }
  int sum = 0;
  for (int i = 0; i < 8; ++i) sum ^= v[i];
  if (sum == 0x7fffffff) *sink = sum;
}

struct Sink {
  uint32_t* word = nullptr;
  Sink() { cudaMalloc(&word, sizeof(uint32_t)); }
  ~Sink() { cudaFree(word); }
};

// Launches `kernel` in clusters of `size` blocks.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_clusters(void (*kernel)(Parameters...), int blocks, int threads, int size, Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = size;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

}  // namespace

extern "C" {

// Seconds per dependent load through `nbytes` of global memory in random order, a line of 128 bytes apart.
double global_latency(size_t nbytes, long loads, int past_l1) {
  constexpr uint32_t kStride = 128 / sizeof(uint32_t);
  const size_t lines = nbytes / 128;
  if (lines < 2) return kFailed;
  const auto next = cycle(lines);
  std::vector<uint32_t> words(lines * kStride, 0);
  for (size_t i = 0; i < lines; ++i) words[i * kStride] = next[i];
  uint32_t* chain = nullptr;
  if (cudaMalloc(&chain, words.size() * sizeof(uint32_t)) != cudaSuccess) return kFailed;
  cudaMemcpy(chain, words.data(), words.size() * sizeof(uint32_t), cudaMemcpyHostToDevice);
  Sink sink;
  const double taken = milliseconds([&] { chase<<<1, 1>>>(chain, loads, kStride, past_l1 != 0, sink.word); });
  cudaFree(chain);
  return taken < 0 ? taken : taken * 1e-3 / static_cast<double>(loads);
}

// Seconds per dependent load from a block's own shared memory, or (cluster) from its neighbour's.
double shared_latency(long loads, int cluster) {
  Sink sink;
  const double taken = milliseconds([&] {
    if (cluster) {
      launch_clusters(chase_cluster, 2, 128, 2, loads, sink.word);
    } else {
      chase_shared<<<1, 128>>>(loads, sink.word);
    }
  });
  return taken < 0 ? taken : taken * 1e-3 / static_cast<double>(loads);
}

// Bytes/s that all blocks read from the shared memory of their neighbours, in clusters of `size`.
double cluster_bandwidth(int size, int turns) {
  Sink sink;
  const int blocks = multiprocessors() / size * size;
  const double taken = milliseconds([&] { launch_clusters(read_cluster, blocks, 1024, size, turns, sink.word); });
  return taken < 0 ? taken : 4.0 * kShared * turns * blocks / (taken * 1e-3);
}

// Bytes/s of bulk copies of `nbytes` from global to shared memory, one after the other in each of `blocks` blocks.
double bulk_bandwidth(int nbytes, int blocks, int turns) {
  const size_t region = size_t{1} << 30;
  char* source = nullptr;
  if (nbytes % 16 != 0 || cudaMalloc(&source, region) != cudaSuccess) return kFailed;
  cudaMemset(source, 0, region);
  cudaFuncSetAttribute(bulk_copies, cudaFuncAttributeMaxDynamicSharedMemorySize, nbytes);
  Sink sink;
  const double taken =
      milliseconds([&] { bulk_copies<<<blocks, 32, nbytes>>>(source, region, nbytes, turns, sink.word); });
  cudaFree(source);
  return taken < 0 ? taken : static_cast<double>(nbytes) * turns * blocks / (taken * 1e-3);
}

// DPX operations/s of the whole GPU.
double dpx_rate(int turns) {
  Sink sink;
  const int blocks = multiprocessors() * 2;
  const double taken = milliseconds([&] { dpx<<<blocks, 1024>>>(turns, reinterpret_cast<int*>(sink.word)); });
  return taken < 0 ? taken : 8.0 * turns * 1024 * blocks / (taken * 1e-3);
}

}  // extern "C"
