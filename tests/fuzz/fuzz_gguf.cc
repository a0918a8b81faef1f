// Bytes of a GGUF file give an error or a right header, description and tokenizer.
#include "model/gguf_test_support.h"
#include "tests/fuzz/fuzz.h"

std::vector<std::string> FuzzSeeds() {
  dogstar::GgufBytes vocabulary;
  vocabulary.String("general.architecture", "unknown").Alignment(64);
  dogstar::AddTinyTokenizer(vocabulary);
  return {dogstar::TinyModel().File(), vocabulary.File()};
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dogstar::CheckAnyBytes({reinterpret_cast<const char*>(data), size});
  return 0;
}
