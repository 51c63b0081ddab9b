// The cache on disk, of kernels and of whole programs: one file per entry, named by the content hash of its key (source
// text, flags, target, compiler version, format version). A file holds magic, the key's hash, sizes and a checksum of the
// payload; it is written to a temporary file, fsynced and renamed. Anything that does not verify is deleted and recompiled,
// with a note. A cache that cannot be used (disk full, no permission, not ours) costs one note and nothing else.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace quern {

class Cache {
 public:
  /// QUERN_CACHE_DIR, else $XDG_CACHE_HOME/quern, else $HOME/.cache/quern; "" and any failure: off.
  static std::string default_directory();
  /// Creates the directory with mode 0700. Refuses one that is a symlink, foreign or writable by others (a note says so).
  explicit Cache(std::string directory);

  std::optional<std::vector<uint8_t>> get(const std::string& key);
  void put(const std::string& key, const std::vector<uint8_t>& payload);

  struct Entry { std::string file; int64_t bytes; bool valid; };
  std::vector<Entry> list();          // every entry, verified
  int64_t clear();                    // number of entries removed
  const std::string& directory() const { return directory_; }
  bool usable() const { return usable_; }
  std::vector<std::string> take_notes();   // and forget them

 private:
  std::string directory_;
  bool usable_ = false;
  std::vector<std::string> notes_;
  std::string path_of(const std::string& key) const;
};

}  // namespace quern
