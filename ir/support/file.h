// Whole files: bounded reading and noticed writing. Everything that Quern reads or writes by name goes through here.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// A regular file of at most `limit` bytes. Throws Error(cannot_read) or Error(file_too_large) with the name.
std::vector<uint8_t> read_bytes(const std::string& path, int64_t limit);
/// `length` bytes at `offset` of a file that lies in `folder` or below it, whatever `name` says: no absolute path, no
/// "..", no link that leads out, no file of several names. Throws Error(onnx_external).
std::vector<uint8_t> read_beneath(const std::string& folder, const std::string& name, int64_t offset, int64_t length);
/// Writes the parts one behind the other to a file beside `path`, syncs it and renames it, so that `path` is either
/// old or whole; what is not a regular file (a device, a pipe) is written in place. Throws Error(cannot_write).
void write_bytes(const std::string& path, const std::vector<std::string_view>& parts);
/// Throws the error of write_bytes as far as it can be foreseen: before hours of work, not after them.
void want_writable(const std::string& path);

}  // namespace quern
