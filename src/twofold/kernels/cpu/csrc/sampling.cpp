#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "kernels.h"

namespace twofold {
namespace {

// Value and index as one number that is larger the better: order-preserving bits of the value, then the index inverted.
uint64_t key_of(float value, int32_t index) {
  uint32_t bits;
  value += 0.0f;  // -0 becomes 0
  std::memcpy(&bits, &value, 4);
  bits ^= bits & 0x80000000u ? 0xffffffffu : 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

int32_t index_of(uint64_t key) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key)); }

}  // namespace

long top_k(const float* x, long n, long k, float* values, int64_t* ids, long* ties) {
  *ties = 0;
  k = std::min(k, n);
  if (k <= 0) return 0;
  const ElementwiseKernels& scan = kernels().elementwise;
  // Candidates above a threshold are collected in order; when they fill the room, the k best stay and the last of them
  // is the new threshold. A later element that equals it has a higher index, so only larger ones are looked for.
  const long room = 2 * k + 4 * kScanLanes;
  std::vector<uint64_t> keys;
  keys.reserve(room);
  std::vector<int32_t> found(room);
  float threshold = -std::numeric_limits<float>::infinity();
  for (long next = 0; next < n;) {
    const long count = scan.above(x, n, threshold, &next, found.data(), room - static_cast<long>(keys.size()));
    for (long i = 0; i < count; ++i) keys.push_back(key_of(x[found[i]], found[i]));
    if (next < n) {
      std::nth_element(keys.begin(), keys.begin() + (k - 1), keys.end(), std::greater<uint64_t>());
      keys.resize(k);
      threshold = x[index_of(keys[k - 1])];
    }
  }
  const long count = std::min<long>(k, keys.size());
  std::partial_sort(keys.begin(), keys.begin() + count, keys.end(), std::greater<uint64_t>());
  for (long i = 0; i < count; ++i) {
    ids[i] = index_of(keys[i]);
    values[i] = x[ids[i]];
  }
  if (count == 0) return 0;
  const float below = std::nextafter(values[count - 1], -std::numeric_limits<float>::infinity());
  *ties = scan.count_above(x, n, below) - count;
  return count;
}

}  // namespace twofold
