#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <stdexcept>

#include "bind.h"
#include "binary_codes.h"
#include "planes.h"

namespace nb = nanobind;

namespace twofold {

namespace {

PlaneMatrix matrix(bool coded, int planes, int group, uintptr_t strips, long rows, long cols) {
  if (planes < 1 || planes > kMostPlanes) throw std::invalid_argument("planes are 1 to 8");
  if (group < kBlockCols || group > kMostGroup || group % kBlockCols != 0)
    throw std::invalid_argument("a group is a multiple of 32 columns, up to 256");
  if (rows <= 0 || rows % kStripRows != 0 || cols <= 0 || cols % kBlockCols != 0)
    throw std::invalid_argument("rows are not a multiple of 16, or columns not of 32");
  return {{planes, group, coded ? planes + 1 : 1}, coded, pointer<const uint8_t>(strips), rows, cols};
}

}  // namespace

void bind_planes(nb::module_& m) {
  m.def("binary_codes", [](uintptr_t weights, long count, long size, int bits, int rounds, int threads,
                           uintptr_t codes, uintptr_t alpha, uintptr_t z) {
    if (count < 0 || size < 1) throw std::invalid_argument("a group has at least one weight");
    if (bits < 1 || bits > kMostPlanes || threads < 1) throw std::invalid_argument("planes are 1 to 8, threads at least 1");
    nb::gil_scoped_release release;
    binary_codes(pointer<const float>(weights), count, size, bits, rounds, threads, pointer<uint8_t>(codes),
                 pointer<float>(alpha), pointer<float>(z));
  }, nb::arg("weights"), nb::arg("count"), nb::arg("size"), nb::arg("bits"), nb::arg("rounds"), nb::arg("threads"),
     nb::arg("codes"), nb::arg("alpha"), nb::arg("z"), "Groups of weights to the binary codes and factors nearest to them.");
  m.def("planes_bytes", [](bool coded, int planes, int group, long rows, long cols) {
    const PlaneMatrix found = matrix(coded, planes, group, 0, rows, cols);
    return static_cast<size_t>(rows / kStripRows) * plane_strip_bytes(found.layout, cols);
  }, nb::arg("coded"), nb::arg("planes"), nb::arg("group"), nb::arg("rows"), nb::arg("cols"),
     "Bytes of a [rows, cols] matrix in strips of bit planes.");
  m.def("pack_planes", [](bool coded, int planes, int group, uintptr_t bits, uintptr_t factors, long rows, long cols,
                          uintptr_t packed) {
    const PlaneMatrix found = matrix(coded, planes, group, 0, rows, cols);
    nb::gil_scoped_release release;
    pack_planes(found, pointer<const uint8_t>(bits), pointer<const uint16_t>(factors), pointer<uint8_t>(packed));
  }, nb::arg("coded"), nb::arg("planes"), nb::arg("group"), nb::arg("bits"), nb::arg("factors"), nb::arg("rows"),
     nb::arg("cols"), nb::arg("packed"), "Bit planes and factors to strips of 16 rows.");
  m.def("unpack_planes", [](bool coded, int planes, int group, uintptr_t packed, long rows, long cols, uintptr_t out) {
    const PlaneMatrix found = matrix(coded, planes, group, packed, rows, cols);
    nb::gil_scoped_release release;
    unpack_planes(found, pointer<float>(out));
  }, nb::arg("coded"), nb::arg("planes"), nb::arg("group"), nb::arg("packed"), nb::arg("rows"), nb::arg("cols"),
     nb::arg("out"), "Strips of bit planes to their values in float32.");
  m.def("plane_linear", [](const std::shared_ptr<Stream>& stream, bool coded, int planes, int group, uintptr_t packed,
                           long rows, long cols, uintptr_t x, long tokens, uintptr_t bias, uintptr_t y, int bits) {
    const PlaneMatrix found = matrix(coded, planes, group, packed, rows, cols);
    if (bits < (coded ? 0 : 1) || bits > (coded ? 1 : kMostPlanes))
      throw std::invalid_argument("activations take 1 to 8 bits; with codes, 1 asks for tables and 0 for none");
    stream->submit(plane_linear(stream, found, pointer<const float>(x), tokens, pointer<const float>(bias),
                                pointer<float>(y), bits));
  }, nb::arg("stream"), nb::arg("coded"), nb::arg("planes"), nb::arg("group"), nb::arg("packed"), nb::arg("rows"),
     nb::arg("cols"), nb::arg("x"), nb::arg("tokens"), nb::arg("bias"), nb::arg("y"), nb::arg("bits"),
     nb::call_guard<nb::gil_scoped_release>(),
     "x [tokens, cols] times strips of bit planes to y [tokens, rows]. bits: of the bipolar integers that activations "
     "are rounded to; for binary codes 1 looks up sums in tables and 0 widens.");
}

}  // namespace twofold
