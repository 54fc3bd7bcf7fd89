// Microbenchmarks of this processor: the STREAM kernels on a team of threads, and chains of dependent loads.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "bind.h"
#include "kernels.h"
#include "stream.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using Clock = std::chrono::steady_clock;
using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

constexpr size_t kHugePage = size_t{2} << 20;
constexpr long kLine = 64;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Memory in huge pages where the system has them, so that translating addresses is no part of what is measured.
class Pages {
 public:
  explicit Pages(size_t bytes) {
    const size_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    data_ = std::aligned_alloc(kHugePage, whole);
    if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    madvise(data_, whole, MADV_HUGEPAGE);  // a wish: measured all the same where it is not granted
#endif
  }
  ~Pages() { std::free(data_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
};

template <typename Name>
int index_of(const char* what, const std::string& name, const Name* names, int count) {
  for (int i = 0; i < count; ++i)
    if (name == names[i]) return i;
  throw std::invalid_argument(std::string(what) + " '" + name + "' is unknown");
}
constexpr const char* kKernelNames[kStreamKernels] = {"copy", "scale", "add", "triad"};
constexpr const char* kWayNames[kStreamWays] = {"plain", "abstract", "streamed"};

// The three arrays of STREAM. Every member fills, and later works on, its own share of them, so that the system places
// a page beside the core that uses it.
class StreamArrays {
 public:
  StreamArrays(std::shared_ptr<Stream> stream, long count)
      : stream_(std::move(stream)), count_(count), a_(bytes()), b_(bytes()), c_(bytes()) {
    if (count < 1) throw std::invalid_argument("arrays need at least one element");
    each_share([this](Share part) {
      for (long i = part.first; i < part.last; ++i) {
        a_.as<float>()[i] = 1.0f;
        b_.as<float>()[i] = 2.0f;
        c_.as<float>()[i] = 0.0f;
      }
    });
  }

  // Seconds that `passes` runs of the kernel took, one after the other, from when all members are awake until the last
  // is done. Members do not wait for each other in between: each keeps to its share.
  double run(const std::string& kernel, const std::string& way, long passes) {
    const int k = index_of("kernel", kernel, kKernelNames, kStreamKernels);
    const auto function = kernels().bandwidth.run[k][index_of("way", way, kWayNames, kStreamWays)];
    if (function == nullptr) throw std::invalid_argument(std::string(kernels().isa) + " has no streaming stores");
    if (passes < 1) throw std::invalid_argument("at least one pass is needed");
    Clock::time_point start;
    double seconds = 0.0;
    Instruction test{"stream_" + kernel, {}};
    test.phases.emplace_back([](int, int) {});
    test.phases.emplace_back([&](int member, int members) {
      if (member == 0) start = Clock::now();
      const Share part = share(count_, member, members, kLine / static_cast<long>(sizeof(float)));
      if (part.first >= part.last) return;
      float *a = a_.as<float>() + part.first, *b = b_.as<float>() + part.first, *c = c_.as<float>() + part.first;
      for (long pass = 0; pass < passes; ++pass) {
        function(a, b, c, kScalar, part.last - part.first);
        __asm__ volatile("" ::: "memory");  // every pass is wanted
      }
    });
    test.phases.emplace_back([&](int member, int) {
      if (member == 0) seconds = since(start);
    });
    stream_->submit(std::move(test));
    follow(k);
    return seconds;
  }

  // The largest relative difference between an element and what the runs so far make of it by scalar arithmetic in the
  // same precision, whose roundings are the same.
  double error() {
    double worst = 0.0;
    const std::pair<const float*, float> arrays[] = {
        {a_.as<float>(), expected_a_}, {b_.as<float>(), expected_b_}, {c_.as<float>(), expected_c_}};
    for (const auto& [array, expected] : arrays)
      for (long i = 0; i < count_; ++i)
        worst = std::fmax(worst, std::fabs(array[i] - expected) / std::fmax(std::fabs(expected), 1e-30f));
    return worst;
  }

 private:
  // Chosen so that a round of copy, scale, add and triad leaves the values as they were: 2q + q² = 1.
  static constexpr float kScalar = 0.41421356f;

  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(float); }

  template <typename Body>
  void each_share(const Body& body) {
    Instruction fill{"stream_fill", {}};
    fill.phases.emplace_back([&](int member, int members) {
      body(share(count_, member, members, kLine / static_cast<long>(sizeof(float))));
    });
    stream_->submit(std::move(fill));
  }

  void follow(int kernel) {
    switch (static_cast<StreamKernel>(kernel)) {
      case StreamKernel::copy:
        expected_c_ = expected_a_;
        break;
      case StreamKernel::scale:
        expected_b_ = kScalar * expected_c_;
        break;
      case StreamKernel::add:
        expected_c_ = expected_a_ + expected_b_;
        break;
      case StreamKernel::triad:
        expected_a_ = expected_b_ + kScalar * expected_c_;
        break;
    }
  }

  std::shared_ptr<Stream> stream_;
  const long count_;
  Pages a_, b_, c_;
  float expected_a_ = 1.0f, expected_b_ = 2.0f, expected_c_ = 0.0f;
};

// A cycle through all cache lines of a piece of memory in random order: every load needs the one before it, and no
// prefetcher can guess the next.
class PointerChase {
 public:
  PointerChase(size_t bytes, long stride, uint64_t seed)
      : lines_(stride > 0 ? bytes / static_cast<size_t>(stride) : 0), pages_(bytes) {
    if (stride < static_cast<long>(sizeof(void*)) || stride % static_cast<long>(sizeof(void*)) != 0)
      throw std::invalid_argument("the stride must be a multiple of a pointer's size");
    if (lines_ < 2) throw std::invalid_argument("a cycle needs at least two lines");
    std::vector<uint32_t> order(lines_);
    if (lines_ > UINT32_MAX) throw std::invalid_argument("too many lines");
    for (size_t i = 0; i < lines_; ++i) order[i] = static_cast<uint32_t>(i);
    std::mt19937_64 random(seed);
    // Sattolo's algorithm: a random permutation that is one cycle.
    for (size_t i = lines_ - 1; i > 0; --i) std::swap(order[i], order[random() % i]);
    char* base = pages_.as<char>();
    for (size_t i = 0; i < lines_; ++i)
      *reinterpret_cast<void**>(base + i * stride) = base + static_cast<size_t>(order[i]) * stride;
    at_ = reinterpret_cast<void**>(base);
  }

  // Seconds per load over `loads` of them, from where the last call stopped.
  double seconds(long loads) {
    if (loads < 1) throw std::invalid_argument("at least one load is needed");
    void** p = at_;
    const auto start = Clock::now();
    for (long i = 0; i < loads; ++i) p = static_cast<void**>(*p);
    __asm__ volatile("" : "+r"(p) : : "memory");  // the chain is wanted
    const double taken = since(start);
    at_ = p;
    return taken / static_cast<double>(loads);
  }

  // Lines met before the cycle comes back to where it began.
  size_t length() const {
    size_t met = 1;
    for (void** p = static_cast<void**>(*at_); p != at_; p = static_cast<void**>(*p)) ++met;
    return met;
  }

 private:
  const size_t lines_;
  Pages pages_;
  void** at_;
};

}  // namespace

void bind_microbench(nb::module_& m) {
  nb::class_<StreamArrays>(m, "StreamArrays", "The arrays of the STREAM benchmark, three times `count` float32.")
      .def(nb::init<std::shared_ptr<Stream>, long>(), nb::arg("stream"), nb::arg("count"), ReleaseGil())
      .def("run", &StreamArrays::run, nb::arg("kernel"), nb::arg("way"), nb::arg("passes"), ReleaseGil(),
           "Seconds of `passes` runs of copy, scale, add or triad; way: plain, abstract or streamed.")
      .def("error", &StreamArrays::error, ReleaseGil(),
           "Largest relative difference between an element and what it should be after the runs so far.");
  nb::class_<PointerChase>(m, "PointerChase", "Dependent loads through `nbytes` in random order, `stride` bytes apart.")
      .def(nb::init<size_t, long, uint64_t>(), nb::arg("nbytes"), nb::arg("stride"), nb::arg("seed"), ReleaseGil())
      .def("seconds", &PointerChase::seconds, nb::arg("loads"), ReleaseGil(), "Seconds per load.")
      .def("__len__", &PointerChase::length);
}

}  // namespace twofold
