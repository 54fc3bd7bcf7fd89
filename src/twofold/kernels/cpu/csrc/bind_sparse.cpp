#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>

#include "bind.h"
#include "sparse.h"

namespace nb = nanobind;

namespace twofold {

namespace {

// Addresses of values, mask, inputs and outputs (0: none), then rows, inputs, weights of a row, first output.
using TileTuple = std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t, int, int, int, long>;

std::vector<SparseTile> tiles_of(const std::vector<TileTuple>& given, long cols, long rows) {
  std::vector<SparseTile> out;
  for (const auto& [values, mask, inputs, outputs, tile_rows, tile_cols, kept, output] : given) {
    if (tile_rows < 0 || tile_cols < 0 || tile_cols > cols || kept < 0 || kept > tile_cols || output < 0 ||
        output + tile_rows > rows)
      throw std::invalid_argument("a tile is larger than its matrix");
    if (mask == 0 && kept != tile_cols) throw std::invalid_argument("a tile without a mask keeps all of its inputs");
    out.push_back({pointer<const uint16_t>(values), pointer<const uint8_t>(mask), pointer<const int32_t>(inputs),
                   pointer<const int32_t>(outputs), tile_rows, tile_cols, kept, output});
  }
  return out;
}

}  // namespace

void bind_sparse(nb::module_& m) {
  m.def("sparse_linear", [](const std::shared_ptr<Stream>& stream, const std::vector<TileTuple>& tiles, long cols,
                            long rows, uintptr_t x, long tokens, uintptr_t bias, uintptr_t y) {
    stream->submit(sparse_linear(stream, tiles_of(tiles, cols, rows), cols, rows, pointer<const float>(x), tokens,
                                 pointer<const float>(bias), pointer<float>(y)));
  }, nb::arg("stream"), nb::arg("tiles"), nb::arg("cols"), nb::arg("rows"), nb::arg("x"), nb::arg("tokens"),
     nb::arg("bias"), nb::arg("y"), nb::call_guard<nb::gil_scoped_release>(),
     "x [tokens, cols] times sparse tiles to y [tokens, rows]. A tile: addresses of values, mask, inputs and outputs "
     "(0: none), its rows, kept inputs, weights of a row, and its first output.");
}

}  // namespace twofold
