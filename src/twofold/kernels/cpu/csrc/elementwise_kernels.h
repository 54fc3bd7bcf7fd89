// Ops that touch each activation a few times, and the scans that choose from logits.
//
// All activations are float32, contiguous [rows, width]. Rows (or elements) [first, last) are computed by one member of
// the team; a row's result depends on that row alone, never on how the work is shared.
#pragma once

#include <cstdint>

namespace twofold {

// y[t] = table[ids[t]] * scale, plus position_table[positions[t] + offset] where there is one. An id or a position that
// the table has no row for gives a row of NaN.
struct EmbeddingArgs {
  const int64_t* ids;
  const float* table;
  long table_rows;
  long width;
  float scale;
  const int64_t* positions;  // null without a position table
  const float* position_table;
  long position_rows;
  long offset;
  float* y;
};

enum class NormKind : int { rms, layer };

// normed = norm(total) * weight + bias, where total = x + delta, or x itself where delta is null.
struct NormArgs {
  NormKind kind;
  const float* x;
  const float* delta;   // null: a norm alone
  const float* weight;  // null: ones
  const float* bias;    // null: zeros
  float eps;
  long width;
  float* normed;
  float* total;  // null where delta is
};

// The query and key heads of qkv [tokens, heads + kv_heads + values, head_dim]: normed where there are weights, then the
// first `rotated` elements turned by the row of cos and sin that belongs to the token's position, halves paired. sin has
// its first half negative. Positions without a row give NaN.
struct RotaryArgs {
  const float* qkv;
  long stride;  // floats from one token of qkv to the next
  int heads, kv_heads, head_dim, rotated;
  const int64_t* positions;
  const float* cos;
  const float* sin;
  long table_rows;
  const float* q_norm;  // null: no norms
  const float* k_norm;
  float eps;
  float* qk;  // [tokens, heads + kv_heads, head_dim]
};

enum class Activation : int { silu, gelu, gelu_tanh, relu };

struct ElementwiseKernels {
  void (*embedding)(const EmbeddingArgs& args, long first, long last);
  void (*norm)(const NormArgs& args, long first, long last);
  // [first, last) of tokens * (heads + kv_heads).
  void (*rotary)(const RotaryArgs& args, long first, long last);
  // y = act(x), or act(gate) * up of rows [gate, up] where gated; [first, last) of rows * width elements of y.
  void (*activate)(Activation function, bool gated, const float* x, long width, float* y, long first, long last);
  // y = a + b, elements [first, last).
  void (*add)(const float* a, const float* b, float* y, long first, long last);
  // z[t] = sigmoid(gate[t]) * y[t], rows [first, last).
  void (*sigmoid_gate)(const float* y, const float* gate, long width, float* z, long first, long last);
  // y = cap * tanh(x / cap), elements [first, last).
  void (*softcap)(const float* x, float cap, float* y, long first, long last);

  // Index of the first largest element of x [n]; NaN is never chosen. `value` gets it. n with -inf where nothing is
  // above -inf.
  long (*argmax)(const float* x, long n, float* value);
  // Appends the indices of elements above `threshold`, from *next on and in order, to `found`; stops, with *next at the
  // first element not looked at, where fewer than kScanLanes more would fit. Returns how many were appended.
  long (*above)(const float* x, long n, float threshold, long* next, int32_t* found, long room);
  // How many elements are above `threshold`.
  long (*count_above)(const float* x, long n, float threshold);
};

constexpr long kScanLanes = 64;

}  // namespace twofold
