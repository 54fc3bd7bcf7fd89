// The k largest of a row of logits, and the noise of a draw.
#pragma once

#include <cstdint>

namespace twofold {

// Writes the k largest of x [n], n < 2^31, largest first and by lower index among equals, to values and ids; entries
// that are NaN or -inf are never among them. Returns how many were written; `ties` gets how many elements more equal the
// last of them.
long top_k(const float* x, long n, long k, float* values, int64_t* ids, long* ties);

// Elements `ids` [count] (each from 0) of the exponential variables, mean 1, that a Mersenne Twister (MT19937) seeded with
// `seed` gives one by one, each from two of its words: -log(1 - u) with u the lower 53 bits of both, as torch's CPU
// generator makes them. Only the chosen ones are computed; the twister's state has to pass the others.
void exponentials(uint32_t seed, const int64_t* ids, long count, float* out);

}  // namespace twofold
