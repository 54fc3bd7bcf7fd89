#include "kernels.h"

#include <atomic>
#include <stdexcept>

#if defined(TWOFOLD_X86)
#include <cpuid.h>
#endif

namespace twofold {

namespace {

#if defined(TWOFOLD_X86)
// `__builtin_cpu_supports` knows f16c only in newer compilers.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

// The builtins also ask whether the operating system saves the wide registers.
std::vector<const KernelTable*> supported() {
  std::vector<const KernelTable*> found;
#if defined(TWOFOLD_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx512) found.push_back(&avx512_kernels());
  if (avx2) found.push_back(&avx2_kernels());
#endif
  found.push_back(&scalar_kernels());
  return found;
}

std::atomic<const KernelTable*> current{nullptr};

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const KernelTable* table : supported()) names.emplace_back(table->isa);
  return names;
}

const KernelTable& kernels() {
  const KernelTable* table = current.load(std::memory_order_relaxed);
  if (table == nullptr) {
    table = supported().front();
    current.store(table);
  }
  return *table;
}

void use_isa(const std::string& name) {
  for (const KernelTable* table : supported())
    if (name == table->isa) {
      current.store(table);
      return;
    }
  throw std::invalid_argument("instruction set '" + name + "' is not one that this processor runs");
}

}  // namespace twofold
