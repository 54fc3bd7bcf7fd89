// The four kernels of the STREAM benchmark (J. McCalpin, "Memory bandwidth and machine balance in current high
// performance computers", IEEE TCCA newsletter, 1995) on float32, each in three ways.
#pragma once

namespace twofold {

enum class StreamKernel : int { copy, scale, add, triad };
inline constexpr int kStreamKernels = 4;

// plain: the loop as one would write it, left to the compiler; abstract: through the vectors and the sweep that all
// elementwise ops of the engine are written with; streamed: the same with stores that go past the caches, so that what
// is overwritten is not read first (null where the instruction set has none).
enum class StreamWay : int { plain, abstract, streamed };
inline constexpr int kStreamWays = 3;

// copy: c = a; scale: b = q * c; add: c = a + b; triad: a = b + q * c, on elements [0, count).
// Pointers are aligned to 64 bytes, and the arrays do not overlap.
using StreamFunction = void (*)(float* a, float* b, float* c, float q, long count);

struct BandwidthKernels {
  StreamFunction run[kStreamKernels][kStreamWays];
};

}  // namespace twofold
