// See npz.h.
#include "frontend/npz.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "frontend/npy.h"
#include "ir/support/file.h"
#include "ir/support/suggest.h"

namespace quern {

static constexpr std::string_view kSuffix = ".npy";

Npz::Npz(const std::string& path) : path_(path), bytes_(read_bytes(path, int64_t{1} << 32)), members_(zip_members(bytes_, path)) {}

std::vector<std::string> Npz::names() const {
  std::vector<std::string> out;
  for (const ZipMember& m : members_)
    if (m.name.ends_with(kSuffix)) out.push_back(m.name.substr(0, m.name.size() - kSuffix.size()));
  return out;
}

HostTensor Npz::at(const std::string& name) const {
  for (const ZipMember& m : members_)
    if (m.name == name + std::string(kSuffix)) return parse_npy(unzip(m, path_), fmt::format("{}:{}", path_, name));
  const std::vector<std::string> known = names();
  throw Error(Code::unknown_tensor, fmt::format("{}: holds no \"{}\"", path_, name)).with_help(suggestion(name, known, known.empty() ? "it holds no .npy file" : fmt::format("it holds {}; FILE.npz:NAME names one", fmt::join(known, ", "))));
}

void save_npz(const std::string& path, const NamedTensors& tensors) {
  std::vector<NpyFile> files;
  files.reserve(tensors.size());   // entries view them
  std::vector<ZipEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    files.emplace_back(tensor);
    entries.push_back({name + std::string(kSuffix), {files.back().head, files.back().data()}});
  }
  write_zip(path, entries);
}

}  // namespace quern
