// Products with sparse tiles as instructions of a stream.
#pragma once

#include <memory>
#include <vector>

#include "sparse_kernels.h"
#include "stream.h"

namespace twofold {

// x [tokens, cols] times the tiles, plus bias (null: none), to y [tokens, rows], float32. Outputs of no tile are the bias.
Instruction sparse_linear(const std::shared_ptr<Stream>& stream, std::vector<SparseTile> tiles, long cols, long rows,
                          const float* x, long tokens, const float* bias, float* y);

}  // namespace twofold
