// What a core does while it waits for another one for a moment.
#pragma once

namespace twofold {

static inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");  // `yield` is a no-op on most cores; isb waits about as long as x86's pause
#endif
}

}  // namespace twofold
