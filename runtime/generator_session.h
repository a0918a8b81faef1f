// What Generator keeps of the texts in progress. For generator*.cc alone.
#pragma once

#include <vector>

#include "runtime/generator.h"

namespace dogstar {

// Texts draw their random numbers as if each were alone.
inline constexpr SequenceId kSequenceKey{0};

struct Generator::Text {
  const TextRequest& request;
  SequenceId sequence;
  std::vector<TokenId> tokens;  // the prompt and what was emitted
  TokenId root{};               // the last of them, not yet in the KV cache
  DraftTree tree;               // of the cycle
  std::vector<KvSlot> slots;    // [node] of the tree, as far as drafts looked beyond it
  // Drafts behind the one that the last cycle's full pass replaced; to be tried behind the correction.
  std::vector<TokenId> repair;
  bool drafts = false;        // in this cycle, by the sparse model
  int32_t most_drafts = 0;    // that the cycle's full pass may look at
  int32_t looked_beyond = 0;  // nodes, in this cycle
  double first_token_at = 0;
  uint64_t disk_at_first_token = 0;
  bool done = false;

  const GenerationOptions& options() const { return request.options; }
  GenerationResult& result() const { return *request.result; }
  // Of the token after a node of the tree.
  TokenPos PositionAfter(int32_t depth) const { return TokenPos{static_cast<int32_t>(tokens.size()) + depth}; }
  int32_t tokens_left() const { return options().max_tokens - static_cast<int32_t>(result().tokens.size()); }
  bool interrupted() const { return options().interrupted != nullptr && *options().interrupted; }
  void Stop(StopReason reason) {
    done = true;
    result().stop = reason;
  }
};

struct Generator::Session {
  std::vector<Text> texts;
  std::vector<Text*> live;  // those that are not done
  PeriodController period;
  TreeShape shape = TreeShape::kChain;  // of the cycle's drafts
  DraftRows draft_rows;

  void FindLive() {
    live.clear();
    for (Text& text : texts) {
      if (!text.done) live.push_back(&text);
    }
  }
};

}  // namespace dogstar
