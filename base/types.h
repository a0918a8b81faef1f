// Types that keep a layer, a neuron, a row, a page, a slot and a position apart: a wrong index does not compile.
#pragma once

#include <cstdint>
#include <type_traits>

namespace dogstar {

enum class LayerIndex : int32_t {};
enum class NeuronIndex : int32_t {};  // FFN hidden unit of a layer, in the order of the source model
enum class RowIndex : int32_t {};     // the same unit's place in the packed file's order of that layer
enum class PageIndex : int32_t {};    // page of a layer, in file order
enum class TokenId : int32_t {};
enum class TokenPos : int32_t {};  // position in a sequence, from 0
enum class SequenceId : int32_t {};
enum class KvSlot : int32_t {};  // place of one token's keys and values in the KV cache; differs from its position

template <typename Enum>
requires std::is_enum_v<Enum>
constexpr std::underlying_type_t<Enum> ToInt(Enum value) { return static_cast<std::underlying_type_t<Enum>>(value); }

}  // namespace dogstar
