// dogstar tokenize: the tokens of a text.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "tools/command.h"
#include "tools/output.h"

namespace dogstar {
namespace {

struct TokenizeOptions {
  std::string model;
  std::string text;
  bool from_stdin = false;
  bool ids_only = false;
  bool no_bos = false;
  bool special = false;
};

absl::StatusOr<std::string> ReadText(const TokenizeOptions& options) {
  if (!options.from_stdin) return options.text;
  std::string text{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  if (std::cin.bad()) return absl::UnavailableError("read standard input: input/output error");
  return text;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path) {
  ASSIGN_OR_RETURN(const GgufHeader header, ReadGgufHeader(path));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromGguf(header);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  return tokenizer;
}

std::vector<int32_t> IdsOf(const std::vector<TokenId>& tokens) {
  std::vector<int32_t> ids;
  for (const TokenId token : tokens) ids.push_back(ToInt(token));
  return ids;
}

void PrintTokensJson(const Tokenizer& tokenizer, const std::vector<TokenId>& tokens) {
  nlohmann::ordered_json pieces = nlohmann::ordered_json::array();
  for (const TokenId token : tokens) pieces.push_back(tokenizer.TokenBytes(token, /*special=*/true));
  PrintJson({{"tokens", IdsOf(tokens)}, {"pieces", std::move(pieces)}});
}

void PrintPieces(const Tokenizer& tokenizer, const std::vector<TokenId>& tokens) {
  for (const TokenId token : tokens) {
    fmt::print("{:>8}  \"{}\"\n", ToInt(token), Printable(tokenizer.TokenBytes(token, /*special=*/true)));
  }
}

absl::Status RunTokenize(const TokenizeOptions& options, bool json) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(options.model));
  ASSIGN_OR_RETURN(const std::string text, ReadText(options));
  const std::vector<TokenId> tokens =
      tokenizer->Encode(text, {.add_bos = !options.no_bos, .parse_special = options.special});
  if (json) {
    PrintTokensJson(*tokenizer, tokens);
  } else if (options.ids_only) {
    fmt::print("{}\n", fmt::join(IdsOf(tokens), " "));
  } else {
    PrintPieces(*tokenizer, tokens);
  }
  return absl::OkStatus();
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, CommandContext* context) {
  const auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Show the tokens of a text");
  command->add_option("MODEL", options->model, "GGUF file; a vocabulary without weights will do")->required();
  CLI::Option* text = command->add_option("TEXT", options->text, "The text; put -- before one that starts with a dash");
  command->add_flag("--stdin", options->from_stdin, "Take the text from standard input")->excludes(text);
  command->add_flag("--ids", options->ids_only, "Print only the ids, on one line");
  command->add_flag("--no-bos", options->no_bos, "Leave out the BOS token that the model asks for");
  command->add_flag("--special", options->special, "Text that looks like a special token becomes that token");
  command->add_flag("--json", context->json, "Print one JSON object");
  command->callback([options, context, text] {
    if (text->count() == 0 && !options->from_stdin) throw CLI::RequiredError("TEXT or --stdin");
    context->run = [=] { return RunTokenize(*options, context->json); };
  });
}

}  // namespace dogstar
