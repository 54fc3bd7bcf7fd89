// Scores of cache entries as an instruction of a stream.
#pragma once

#include <memory>
#include <vector>

#include "observe_kernels.h"
#include "step.h"
#include "stream.h"

namespace twofold {

// For each sequence, which of its new tokens are watched (first … last - 1; none where last <= first), and whether all
// of its scores start at zero; otherwise those of its new entries do. Sequences with `last` below 0 are left alone.
struct Watched {
  int first, last;
  bool begins;
};

void submit_observe(Stream& stream, const ObserveArgs& args, std::shared_ptr<Spans> spans, std::vector<Watched> watched);

}  // namespace twofold
