// The search for binary codes: factors and signs that come nearest to groups of weights.
#pragma once

#include <cstdint>

namespace twofold {

// Groups w [count, size] to codes [count, size] (bit i: the sign of factor i), alpha [count, bits] and z [count]:
// evenly spaced sums at first, then at most `rounds` turns of factors by least squares and signs as the nearest sums.
void binary_codes(const float* w, long count, long size, int bits, int rounds, int threads, uint8_t* codes,
                  float* alpha, float* z);

}  // namespace twofold
