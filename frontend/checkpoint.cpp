// See checkpoint.h. The head is JSON: {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ..}.
#include "frontend/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <unistd.h>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

namespace quern {

static constexpr std::pair<DType, const char*> kNames[] = {{DType::f64, "F64"}, {DType::f32, "F32"}, {DType::bf16, "BF16"}, {DType::f16, "F16"}, {DType::i64, "I64"},
                                                          {DType::i32, "I32"}, {DType::u32, "U32"}, {DType::u8, "U8"},     {DType::boolean, "BOOL"}};

void save_safetensors(const std::string& path, const NamedTensors& tensors) {
  nlohmann::ordered_json head = nlohmann::ordered_json::object();
  int64_t at = 0;
  for (const auto& [name, t] : tensors) {
    const int64_t end = at + static_cast<int64_t>(t.bytes.size());
    for (const auto& [dtype, text] : kNames)
      if (dtype == t.dtype) head[name] = {{"dtype", text}, {"shape", t.shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = head.dump();
  text.resize(static_cast<size_t>(round_up(static_cast<int64_t>(text.size()), 8)), ' ');
  const std::string temporary = path + ".tmp";
  FILE* f = std::fopen(temporary.c_str(), "wb");
  bool good = f != nullptr;
  const uint64_t size = text.size();
  good = good && std::fwrite(&size, 1, 8, f) == 8 && std::fwrite(text.data(), 1, text.size(), f) == text.size();
  for (const auto& [name, t] : tensors) good = good && std::fwrite(t.bytes.data(), 1, t.bytes.size(), f) == t.bytes.size();
  good = good && std::fflush(f) == 0 && ::fsync(::fileno(f)) == 0;
  if (f) good = std::fclose(f) == 0 && good;
  good = good && std::rename(temporary.c_str(), path.c_str()) == 0;
  if (good) return;
  const std::string why = std::strerror(errno);
  std::remove(temporary.c_str());
  throw Error(ErrorKind::bad_file, fmt::format("{}: cannot be written: {}", path, why));
}

NamedTensors load_safetensors(const std::string& path) {
  const auto fail = [&](const std::string& what) { throw Error(ErrorKind::bad_file, fmt::format("{}: {}", path, what)); };
  FILE* f = std::fopen(path.c_str(), "rb");
  if (!f) fail(std::strerror(errno));
  std::string bytes;
  char block[1 << 16];
  for (size_t n; (n = std::fread(block, 1, sizeof block, f)) > 0;) bytes.append(block, n);
  std::fclose(f);
  uint64_t size = 0;
  if (bytes.size() < 8) fail("too short for a safetensors file");
  std::memcpy(&size, bytes.data(), 8);
  if (size > 100'000'000 || size > bytes.size() - 8) fail("the head is larger than the file");
  // Duplicate keys and deep nesting are refused while parsing.
  std::vector<std::vector<std::string>> keys;
  bool sound = true;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > 4) sound = false;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::key) {
      const std::string key = value.get<std::string>();
      if (std::count(keys.back().begin(), keys.back().end(), key)) sound = false;
      keys.back().push_back(key);
    }
    if (event == Event::object_end) keys.pop_back();
    return true;
  };
  const nlohmann::json head = nlohmann::json::parse(bytes.data() + 8, bytes.data() + 8 + size, watch, false);
  if (!sound || head.is_discarded() || !head.is_object()) fail("the head is not the JSON that safetensors want");
  struct Entry {
    std::string name;
    HostTensor tensor;
    int64_t begin, end;
  };
  std::vector<Entry> entries;
  for (const auto& [name, value] : head.items()) {
    if (name == "__metadata__") continue;
    try {
      const std::string dtype_name = value.at("dtype").get<std::string>();
      const auto* known = std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& n) { return dtype_name == n.second; });
      if (known == std::end(kNames)) fail(fmt::format("tensor \"{}\" has the unsupported dtype {}", name, dtype_name));
      const Shape shape = value.at("shape").get<Shape>();
      const Shape offsets = value.at("data_offsets").get<Shape>();
      if (shape.size() > kMaxRank || offsets.size() != 2) fail(fmt::format("tensor \"{}\" is malformed", name));
      for (int64_t d : shape)
        if (d < 0 || d > kMaxExtent) fail(fmt::format("tensor \"{}\" has an extent outside [0, 2^40]", name));
      const int64_t wanted = checked_mul(count(shape), size_of(known->first));
      if (offsets[0] < 0 || offsets[1] - offsets[0] != wanted || offsets[1] > static_cast<int64_t>(bytes.size() - 8 - size)) fail(fmt::format("tensor \"{}\" does not lie within the file", name));
      entries.push_back({name, HostTensor(known->first, shape), offsets[0], offsets[1]});
    } catch (const nlohmann::json::exception&) {
      fail(fmt::format("tensor \"{}\" is malformed", name));
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
  int64_t at = 0;
  NamedTensors out;
  for (Entry& e : entries) {
    if (e.begin != at) fail("the tensors overlap or leave holes");
    at = e.end;
    std::memcpy(e.tensor.bytes.data(), bytes.data() + 8 + size + e.begin, e.tensor.bytes.size());
    out.emplace_back(e.name, std::move(e.tensor));
  }
  if (at != static_cast<int64_t>(bytes.size() - 8 - size)) fail("data after the last tensor");
  return out;
}

}  // namespace quern
