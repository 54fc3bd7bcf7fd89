// Attention as instructions of a stream.
#pragma once

#include <cstdint>
#include <memory>

#include "attention_kernels.h"
#include "step.h"
#include "stream.h"

namespace twofold {

// Stores `tokens` new entries.
void submit_cache_write(Stream& stream, const CacheWriteArgs& args, long tokens);

// Stores the new entries of `spans` in a grouped cache.
void submit_grouped_write(Stream& stream, const GroupedWriteArgs& args, std::shared_ptr<Spans> spans);

// Attends for the tokens of `spans`, which it reads when it runs.
void submit_attention(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans);

}  // namespace twofold
