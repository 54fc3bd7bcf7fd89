// Sparse attention of prompts as instructions of a stream.
#pragma once

#include <memory>

#include "prefill_kernels.h"
#include "step.h"
#include "stream.h"

namespace twofold {

// Which keys the tiles of `spans` read. The index is complete when this returns.
std::shared_ptr<PrefillIndex> make_index(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans,
                                         PrefillPlan plan);

// Attends for the tokens of `spans` by `index`; sequences that it leaves out attend to everything.
void submit_prefill(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans,
                    std::shared_ptr<PrefillIndex> index);

}  // namespace twofold
