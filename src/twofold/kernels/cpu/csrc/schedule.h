// Exact attention schedules as instructions of a stream.
#pragma once

#include <memory>

#include "schedule_kernels.h"
#include "step.h"
#include "stream.h"

namespace twofold {

// Attends for the tokens of `spans`, which it reads when it runs: blocks of keys outside, blocks of queries inside.
void submit_keys_outside(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans, int key_block,
                         int query_block);

// The same, with the keys of all sequences of one query dealt out in tiles to `workers`; others go by tiles of queries.
void submit_lean_attention(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans, int tile,
                           int workers);

}  // namespace twofold
