#include "entries.h"

#include <stdexcept>

namespace twofold {

namespace {

// Elements [first, last) of every entry: members share the width, so that each moves its part in order.
template <typename T>
void move(const EntryView& v, const int64_t* source, bool per_head, const int64_t* target, long count, long first,
          long last) {
  T* data = reinterpret_cast<T*>(v.data);
  const auto place = [&](int64_t slot, long head) {
    return data + slot / v.block_size * v.block_stride + slot % v.block_size * v.slot_stride + head * v.head_stride;
  };
  for (long head = 0; head < v.heads; ++head) {
    for (long i = 0; i < count; ++i) {
      const int64_t from = per_head ? source[i * v.heads + head] : source[i];
      if (from == target[i]) continue;
      const T* in = place(from, head);
      T* out = place(target[i], head);
      for (long e = first; e < last; ++e) out[e * v.element_stride] = in[e * v.element_stride];
    }
  }
}

}  // namespace

Instruction move_entries(const EntryView& view, const int64_t* source, bool per_head, const int64_t* target,
                         long count) {
  if (view.item != 1 && view.item != 2 && view.item != 4) throw std::invalid_argument("elements have 1, 2 or 4 bytes");
  return {"move_entries", {[=](int member, int members) {
            const long first = view.width * member / members, last = view.width * (member + 1) / members;
            if (view.item == 1) move<uint8_t>(view, source, per_head, target, count, first, last);
            if (view.item == 2) move<uint16_t>(view, source, per_head, target, count, first, last);
            if (view.item == 4) move<uint32_t>(view, source, per_head, target, count, first, last);
          }}};
}

}  // namespace twofold
