// Everything that is compiled once per instruction set, and the table of it.
#pragma once

#include "cpu/attention_impl.h"
#include "cpu/ffn_down_impl.h"
#include "cpu/ffn_impl.h"
#include "cpu/math_impl.h"
#include "cpu/pack_impl.h"
#include "cpu/plain_impl.h"
#include "cpu/planes_impl.h"
#include "cpu/product_impl.h"
#include "cpu/quantize_impl.h"

namespace dogstar::DOGSTAR_ISA {
namespace {

constexpr KernelTable MakeTable(const char* name) {
  return {.name = name,
          .find_product = FindProduct,
          .find_high_product = FindHighProduct,
          .find_plain_product = FindPlainProduct,
          .matmul = MatMul,
          .cut_matmul = CutMatMul,
          .prepare = Prepare,
          .ffn_values = ValuesOfBlocks,
          .ffn_gates = GatesOfBlocks,
          .ffn_ups = UpsOfBlocks,
          .ffn_keep = KeepOfBlocks,
          .ffn_down = FfnDown,
          .overlay_down = OverlayDownRows,
          .rms_norm = RmsNorm,
          .find_peak = FindPeak,
          .gated = Gated,
          .add = Add,
          .scale = Scale,
          .rope = Rope,
          .store_kv = StoreKv,
          .attention = Attention,
          .pack_panel = PackPanelRows};
}

}  // namespace
}  // namespace dogstar::DOGSTAR_ISA
