// The largest of a row of logits, and its k largest.
#pragma once

#include <cstdint>

namespace twofold {

// Writes the k largest of x [n], n < 2^31, largest first and by lower index among equals, to values and ids; entries
// that are NaN or -inf are never among them. Returns how many were written; `ties` gets how many elements more equal the
// last of them.
long top_k(const float* x, long n, long k, float* values, int64_t* ids, long* ties);

}  // namespace twofold
