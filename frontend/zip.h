// Compressed data, the one place that knows zlib: gzip data whole, and zip archives (APPNOTE.TXT 6.3) as NumPy's .npz
// files are: members stored or deflated. No zip64, encryption or parts; archives are read through their directory.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// Throws Error(bad_gzip), or Error(file_too_large) past `limit` bytes, naming `name`.
std::vector<uint8_t> gunzip(std::span<const uint8_t> data, int64_t limit, const std::string& name);

struct ZipMember {
  std::string name;
  uint32_t crc = 0;
  bool deflated = false;
  int64_t size = 0;                 // unpacked
  std::span<const uint8_t> data;    // as stored
};
/// The members, in order: every place and size lies within `archive`, which they view; no unpacked size is beyond what
/// deflate can yield. Throws Error(bad_npz) naming `file`.
std::vector<ZipMember> zip_members(std::span<const uint8_t> archive, const std::string& file);
/// The member's content: of the promised size and checksum. Throws Error(bad_npz).
std::vector<uint8_t> unzip(const ZipMember& member, const std::string& file);

uint32_t zip_checksum(std::span<const uint8_t> content);

struct ZipEntry {
  std::string name;
  std::vector<std::string_view> parts;   // of the content, one behind the other
};
/// An archive of stored members. Throws as write_bytes does; Error(file_too_large) from 4 GiB on.
void write_zip(const std::string& path, const std::vector<ZipEntry>& entries);

}  // namespace quern
