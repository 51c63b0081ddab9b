// See zip.h. An archive is its members, each behind a local head; the directory, which repeats the heads; the end record,
// which says where the directory lies. Numbers are little endian.
#include "frontend/zip.h"

#include <algorithm>
#include <memory>
#include <set>

#include <fmt/format.h>
#include <zlib.h>

#include "ir/support/check.h"
#include "ir/support/file.h"
#include "ir/support/memory.h"

namespace quern {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kDirectory = 0x02014b50, kEnd = 0x06054b50;
constexpr int64_t kLocalHead = 30, kDirectoryHead = 46, kEndRecord = 22, kLimit = 0xffffffff;
constexpr int64_t kMaxRatio = 1032;   // deflate: 258 bytes in two bits

// Inflates into what `room(at)` gives for the bytes from `at` on, until it gives nothing. True at the stream's end.
template <class Room>
bool inflate_into(std::span<const uint8_t> data, int window, int64_t& size, size_t& used, Room&& room) {
  z_stream z{};
  if (inflateInit2(&z, window) != Z_OK) throw Error(Code::out_of_memory, "zlib cannot start").with_help("free some memory");
  const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&z, inflateEnd);   // also when `room` throws
  int status = Z_OK;
  used = 0;
  size = 0;
  while (status == Z_OK) {
    const std::span<uint8_t> to = room(size);
    const uInt in = static_cast<uInt>(std::min<size_t>(data.size() - used, 1u << 30)), out = static_cast<uInt>(std::min<size_t>(to.size(), 1u << 30));
    z.next_in = const_cast<uint8_t*>(data.data() + used), z.avail_in = in;
    z.next_out = to.data(), z.avail_out = out;
    if (!out) break;
    status = inflate(&z, Z_NO_FLUSH);
    used += in - z.avail_in;
    size += out - z.avail_out;
  }
  return status == Z_STREAM_END;
}

uint32_t number(std::span<const uint8_t> bytes, int64_t at, int size) {
  uint32_t out = 0;
  for (int i = 0; i < size; ++i) out |= static_cast<uint32_t>(bytes[static_cast<size_t>(at + i)]) << (8 * i);
  return out;
}
std::string written(std::initializer_list<std::pair<int64_t, int>> numbers) {   // value, bytes
  std::string out;
  for (const auto& [value, size] : numbers)
    for (int i = 0; i < size; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

}  // namespace

std::vector<uint8_t> gunzip(std::span<const uint8_t> data, int64_t limit, const std::string& name) {
  std::vector<uint8_t> out;
  int64_t size = 0;
  size_t used = 0;
  const bool whole = inflate_into(data, 16 + MAX_WBITS, size, used, [&](int64_t at) {
    if (at > limit) return std::span<uint8_t>();
    if (at == static_cast<int64_t>(out.size())) out.resize(std::max<size_t>(1 << 16, 2 * out.size()));
    return std::span(out).subspan(static_cast<size_t>(at));
  });
  if (size > limit) throw Error(Code::file_too_large, fmt::format("{}: unzips to more than {} bytes", name, limit)).with_help("is it the right file?");
  if (!whole) throw Error(Code::bad_gzip, fmt::format("{}: damaged or truncated gzip data", name)).with_help("fetch the file again");
  out.resize(static_cast<size_t>(size));
  return out;
}

std::vector<ZipMember> zip_members(std::span<const uint8_t> archive, const std::string& file) {
  const int64_t total = static_cast<int64_t>(archive.size());
  const auto fail = [&](const std::string& what, const char* help = "numpy.savez(f, x=x) writes one that Quern reads") { throw Error(Code::bad_npz, fmt::format("{}: {}", file, what)).with_help(help); };
  // The end record is followed by a comment of the length that it says, up to the end of the file.
  int64_t end = total - kEndRecord;
  while (end >= 0 && end >= total - kEndRecord - 0xffff && !(number(archive, end, 4) == kEnd && number(archive, end + 20, 2) == total - end - kEndRecord)) --end;
  if (end < 0 || end < total - kEndRecord - 0xffff) fail("not a zip archive, or one that ends early");
  const int64_t count = number(archive, end + 10, 2), length = number(archive, end + 12, 4), start = number(archive, end + 16, 4);
  const char* const by_itself = "numpy.save(f, x) writes one tensor of any size";
  if (count == 0xffff || length == kLimit || start == kLimit) fail("a zip64 archive, which Quern does not read", by_itself);
  if (number(archive, end + 4, 4) != 0 || number(archive, end + 8, 2) != count) fail("one part of an archive in several");
  if (length != end - start || count * kDirectoryHead > length) fail(fmt::format("its directory claims {} members in {} bytes at {}, which it does not have", count, length, start));
  std::vector<ZipMember> out;
  std::set<std::string> names;
  int64_t at = start;
  for (int64_t i = 0; i < count; ++i) {
    if (end - at < kDirectoryHead || number(archive, at, 4) != kDirectory) fail(fmt::format("member {} of its directory is damaged", i));
    const int64_t flags = number(archive, at + 8, 2), method = number(archive, at + 10, 2), packed = number(archive, at + 20, 4), size = number(archive, at + 24, 4), name_size = number(archive, at + 28, 2),
                  rest = static_cast<int64_t>(number(archive, at + 30, 2)) + number(archive, at + 32, 2), local = number(archive, at + 42, 4);
    if (end - at - kDirectoryHead < name_size + rest) fail(fmt::format("member {} of its directory is damaged", i));
    ZipMember m;
    m.name.assign(reinterpret_cast<const char*>(archive.data()) + at + kDirectoryHead, static_cast<size_t>(name_size));
    const auto member_fail = [&](const std::string& what, const char* help = "numpy.savez(f, x=x) writes one that Quern reads") { fail(fmt::format("member \"{}\" {}", m.name, what), help); };
    if (packed == kLimit || size == kLimit || local == kLimit) member_fail("is a zip64 one, of 4 GiB or more", by_itself);
    if (flags & 1) member_fail("is encrypted", "save it without a password");
    if (method != 0 && method != 8) member_fail(fmt::format("is compressed by method {}", method), "numpy.savez_compressed uses deflate, which Quern reads");
    if (!names.insert(m.name).second) member_fail("is there twice");
    m.crc = number(archive, at + 16, 4);
    m.deflated = method == 8;
    m.size = size;
    // The local head repeats the name; its extra field may have another length, and its sizes may be left to the directory.
    if (local > start - kLocalHead || number(archive, local, 4) != kLocal) member_fail("is not where the directory says");
    const int64_t local_name = number(archive, local + 26, 2), data = local + kLocalHead + local_name + number(archive, local + 28, 2);
    if (local_name != name_size || data > start || packed > start - data) member_fail("does not lie within the archive");
    if (!std::equal(m.name.begin(), m.name.end(), archive.begin() + local + kLocalHead, [](char a, uint8_t b) { return static_cast<uint8_t>(a) == b; })) member_fail("has another name in its own head");
    if (m.deflated ? size > packed * kMaxRatio : size != packed) member_fail(fmt::format("claims {} bytes in {} of the file", size, packed));
    m.data = archive.subspan(static_cast<size_t>(data), static_cast<size_t>(packed));
    out.push_back(std::move(m));
    at += kDirectoryHead + name_size + rest;
  }
  if (at != end) fail("its directory holds more than it says");
  return out;
}

std::vector<uint8_t> unzip(const ZipMember& member, const std::string& file) {
  const auto fail = [&](const std::string& what) { throw Error(Code::bad_npz, fmt::format("{}: member \"{}\" {}", file, member.name, what)).with_help("fetch or write the file again"); };
  std::vector<uint8_t> out;
  if (!member.deflated) {
    out.assign(member.data.begin(), member.data.end());
  } else {
    want_memory("a member of an archive", static_cast<double>(member.size));
    out.resize(static_cast<size_t>(member.size) + 1);   // one more: what yields more than it says is met
    int64_t size = 0;
    size_t used = 0;
    const bool whole = inflate_into(member.data, -MAX_WBITS, size, used, [&](int64_t at) { return std::span(out).subspan(static_cast<size_t>(at)); });
    if (!whole || size != member.size || used != member.data.size()) fail("is damaged: it does not unpack to the size that the directory says");
    out.pop_back();
  }
  if (zip_checksum(out) != member.crc) fail("is damaged: its checksum is wrong");
  return out;
}

uint32_t zip_checksum(std::span<const uint8_t> content) {
  return static_cast<uint32_t>(::crc32_z(::crc32_z(0, nullptr, 0), content.data(), content.size()));   // no content: null
}

void write_zip(const std::string& path, const std::vector<ZipEntry>& entries) {
  std::vector<std::string> heads;
  std::string directory;
  int64_t at = 0;
  for (const ZipEntry& e : entries) {
    int64_t size = 0;
    uLong crc = ::crc32_z(0, nullptr, 0);
    for (std::string_view part : e.parts) {
      size += static_cast<int64_t>(part.size());
      if (!part.empty()) crc = ::crc32_z(crc, reinterpret_cast<const Bytef*>(part.data()), part.size());
    }
    const int64_t name_size = static_cast<int64_t>(e.name.size());
    if (name_size > 0xffff || entries.size() >= 0xffff || at + size + static_cast<int64_t>(directory.size()) + 4 * (kDirectoryHead + name_size) >= kLimit)
      throw Error(Code::file_too_large, fmt::format("{}: an archive of 4 GiB or more, or of too many members", path)).with_help("write .npy files, one for each tensor");
    // Version 2.0, UTF-8 names, stored; the first day that the format knows, so that equal tensors make equal files.
    const std::string shared = written({{20, 2}, {0x800, 2}, {0, 2}, {0, 2}, {0x21, 2}, {static_cast<int64_t>(crc), 4}, {size, 4}, {size, 4}, {name_size, 2}, {0, 2}});
    heads.push_back(written({{kLocal, 4}}) + shared + e.name);
    directory += written({{kDirectory, 4}, {20, 2}}) + shared + written({{0, 2}, {0, 2}, {0, 2}, {0, 4}, {at, 4}}) + e.name;
    at += static_cast<int64_t>(heads.back().size()) + size;
  }
  const int64_t count = static_cast<int64_t>(entries.size());
  const std::string end = written({{kEnd, 4}, {0, 2}, {0, 2}, {count, 2}, {count, 2}, {static_cast<int64_t>(directory.size()), 4}, {at, 4}, {0, 2}});
  std::vector<std::string_view> parts;
  for (size_t i = 0; i < entries.size(); ++i) {
    parts.push_back(heads[i]);
    parts.insert(parts.end(), entries[i].parts.begin(), entries[i].parts.end());
  }
  parts.push_back(directory);
  parts.push_back(end);
  write_bytes(path, parts);
}

}  // namespace quern
