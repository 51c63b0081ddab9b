// .npy files: bytes as NumPy writes them, round trips, and every kind of damage; bounded reading and noticed writing.
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include <sys/stat.h>

#include "frontend/npy.h"
#include "ir/support/env.h"
#include "ir/support/file.h"
#include "ir/support/suggest.h"

namespace quern {
namespace {

// A version 1 or 2 file by NumPy's rules: the head padded with spaces to a multiple of 64, and ended by a newline.
std::vector<uint8_t> file(std::string head, const std::vector<uint8_t>& data, int version = 1) {
  const size_t start = version == 1 ? 10 : 12;
  while ((start + head.size() + 1) % 64) head += ' ';
  head += '\n';
  std::vector<uint8_t> out = {0x93, 'N', 'U', 'M', 'P', 'Y', static_cast<uint8_t>(version), 0, static_cast<uint8_t>(head.size()), static_cast<uint8_t>(head.size() >> 8), 0, 0};
  out.resize(start);
  out.insert(out.end(), head.begin(), head.end());
  out.insert(out.end(), data.begin(), data.end());
  return out;
}
std::string dict(const std::string& descr, const std::string& order, const std::string& shape) { return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }"; }

void refused(const std::vector<uint8_t>& bytes, const std::string& part) {
  try {
    parse_npy(bytes, "f.npy");
    ADD_FAILURE() << "accepted; wanted: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, ErrorKind::bad_file) << e.what();
    EXPECT_FALSE(e.help.empty());
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("f.npy"), std::string::npos) << e.what();
  }
}

TEST(Npy, ReadsWhatNumpyWrites) {
  // numpy.save of numpy.array([[1, 2, 3], [4, 5, -0.5]], dtype='<f4')
  std::vector<uint8_t> data;
  for (const uint32_t w : {0x3f800000u, 0x40000000u, 0x40400000u, 0x40800000u, 0x40a00000u, 0xbf000000u})
    for (int b = 0; b < 4; ++b) data.push_back(static_cast<uint8_t>(w >> (8 * b)));
  for (int version : {1, 2}) {
    const HostTensor t = parse_npy(file(dict("'<f4'", "False", "(2, 3)"), data, version), "f.npy");
    EXPECT_EQ(t, HostTensor::from(DType::f32, {2, 3}, {1, 2, 3, 4, 5, -0.5}));
  }
  EXPECT_EQ(parse_npy(file(dict("'<i8'", "False", "()"), {7, 0, 0, 0, 0, 0, 0, 0}), "f.npy"), HostTensor::full(DType::i64, {}, 7));
  EXPECT_EQ(parse_npy(file(dict("'|b1'", "False", "(3,)"), {1, 0, 1}), "f.npy"), HostTensor::from(DType::boolean, {3}, {1, 0, 1}));
  EXPECT_EQ(parse_npy(file(dict("'<i2'", "False", "(2,)"), {0, 0x80, 5, 0}), "f.npy"), HostTensor::from(DType::i16, {2}, {-32768, 5}));
  EXPECT_EQ(parse_npy(file(dict("'|i1'", "False", "(2,)"), {0xff, 7}), "f.npy"), HostTensor::from(DType::i8, {2}, {-1, 7}));
  EXPECT_EQ(parse_npy(file(dict("'<u8'", "False", "()"), {0, 0, 0, 0, 0, 0, 0, 0x80}), "f.npy"), HostTensor::full(DType::u64, {}, 0x1p63));
  EXPECT_EQ(parse_npy(file(dict("'<u2'", "False", "()"), {0xff, 0xff}), "f.npy"), HostTensor::full(DType::u16, {}, 65535));
  EXPECT_EQ(parse_npy(file(dict("'|u1'", "False", "(0, 5)"), {}), "f.npy"), HostTensor(DType::u8, {0, 5}));
  EXPECT_EQ(parse_npy(file("{\"shape\":(2,),\"fortran_order\":False,\"descr\":\"<f2\"}", {0, 0x3c, 0, 0xc0}), "f.npy"), HostTensor::from(DType::f16, {2}, {1, -2}));
}

TEST(Npy, RoundTrips) {
  const std::string path = testing::TempDir() + "quern_round.npy";
  for (int d = 0; d < kDTypeCount; ++d)
    for (const Shape& shape : {Shape{}, Shape{1}, Shape{3, 5}, Shape{0, 4}, Shape{1, 2, 3, 1, 2, 1, 1, 2}}) {
      const DType dtype = static_cast<DType>(d);
      HostTensor t(dtype, shape);
      for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of_int(dtype, i * 3));
      save_npy(path, t);
      const DType written = npy_dtype(dtype);
      EXPECT_EQ(std::filesystem::file_size(path) % 64, static_cast<uint64_t>(t.size() * size_of(written)) % 64);   // the data is aligned
      const HostTensor back = load_npy(path);
      EXPECT_EQ(back.dtype, written);
      EXPECT_EQ(back.to_doubles(), t.to_doubles());
      if (written == dtype) EXPECT_EQ(back, t);
      else EXPECT_TRUE(dtype == DType::bf16 || is_storage(dtype));
    }
  std::remove(path.c_str());
}

TEST(Npy, RefusesTheRest) {
  const std::vector<uint8_t> four(4);
  refused({}, "not an .npy");
  refused({'P', 'K', 3, 4, 0, 0, 0, 0, 0, 0, 0, 0}, "not an .npy");
  refused(file(dict("'<f4'", "True", "(1,)"), four), "Fortran");
  refused(file(dict("'>f4'", "False", "(1,)"), four), "little endian");
  refused(file(dict("'<c8'", "False", "(1,)"), four), "<c8");
  refused(file(dict("'|O'", "False", "(1,)"), four), "|O");
  refused(file(dict("[('a', '<f4')]", "False", "(1,)"), four), "plain");
  refused(file(dict("'<f4'", "Maybe", "(1,)"), four), "dict");
  refused(file(dict("'<f4'", "False", "(2,)"), four), "4 bytes of data, the head promises 8");
  refused(file(dict("'<f4'", "False", "(0,)"), four), "the head promises 0");
  refused(file(dict("'<f4'", "False", "(-1,)"), four), "extent");
  refused(file(dict("'<f4'", "False", "(99999999999999999999,)"), four), "extent");
  refused(file(dict("'<f4'", "False", "(1099511627776, 1099511627776)"), four), "overflows");
  refused(file(dict("'<f4'", "False", "(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)"), four), "10 dims");
  refused(file(dict("'<f4'", "False", "(1, 'x')"), four), "extent");
  refused(file(dict("'|b1'", "False", "(1,)"), {2}), "neither 0 nor 1");
  refused(file("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", four), "dict");
  refused(file("{'descr': '<f4', 'fortran_order': False}", four), "dict");
  refused(file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': '1'}", four), "'more'");
  std::vector<uint8_t> long_head = file(dict("'<f4'", "False", "(1,)"), four, 2);
  long_head[11] = 0xff;
  refused(long_head, "claims");
  std::vector<uint8_t> version = file(dict("'<f4'", "False", "(1,)"), four);
  version[6] = 3;
  refused(version, "version 3.0");
}

TEST(Npy, EveryTruncationAndFlipIsAnErrorOrAnotherTensor) {
  const std::vector<uint8_t> good = file(dict("'<f4'", "False", "(1, 2)"), std::vector<uint8_t>(8));
  for (size_t n = 0; n < good.size(); ++n) EXPECT_THROW(parse_npy({good.begin(), good.begin() + static_cast<int64_t>(n)}, "f.npy"), Error) << n;
  int accepted = 0;
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::vector<uint8_t> bad = good;
    bad[bit / 8] = static_cast<uint8_t>(bad[bit / 8] ^ (1 << (bit % 8)));
    try {
      const HostTensor t = parse_npy(bad, "f.npy");
      EXPECT_EQ(t.bytes.size(), 8u);
      ++accepted;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind, ErrorKind::bad_file) << e.what();
    }
  }
  EXPECT_GE(accepted, 64);                                         // the data's bits
  EXPECT_LT(accepted, static_cast<int>(good.size() * 8 / 2));
}

TEST(File, ReadsBoundedAndWritesWhole) {
  const std::string path = testing::TempDir() + "quern_file", link = path + "_link", pipe = path + "_pipe";
  for (const std::string& p : {path, link, pipe}) std::filesystem::remove(p);
  write_bytes(path, {"ab", "", "c"});
  EXPECT_EQ(read_bytes(path, 3), (std::vector<uint8_t>{'a', 'b', 'c'}));
  const auto code = [](const auto& f) {
    try {
      f();
    } catch (const Error& e) {
      return e.code;
    }
    return Code::general_bug;
  };
  EXPECT_EQ(code([&] { read_bytes(path, 2); }), Code::file_too_large);
  EXPECT_EQ(code([&] { read_bytes(path + "none", 2); }), Code::cannot_read);
  EXPECT_EQ(code([&] { read_bytes(testing::TempDir(), 2); }), Code::cannot_read);
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(code([&] { read_bytes(pipe, 2); }), Code::cannot_read);   // and does not wait
  EXPECT_EQ(code([&] { write_bytes("/dev/full", {"x"}); }), Code::cannot_write);
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));         // not replaced
  EXPECT_EQ(code([&] { write_bytes(path + "none/x", {"x"}); }), Code::cannot_write);
  std::filesystem::create_symlink(path, link);
  write_bytes(link, {"new"});
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(read_bytes(path, 3), (std::vector<uint8_t>{'n', 'e', 'w'}));
  for (const std::string& p : {path, link, pipe}) std::filesystem::remove(p);
}

TEST(Environment, UnknownVariablesAreNamed) {
  ::setenv("QUERN_THREAD", "1", 1);
  ::setenv("QUERN_XYZZY_PLUGH", "1", 1);
  std::string all;
  for (const std::string& w : unknown_variables()) all += w + "\n";
  EXPECT_NE(all.find("QUERN_THREAD has no meaning; did you mean \"QUERN_THREADS\"?"), std::string::npos) << all;
  EXPECT_NE(all.find("QUERN_XYZZY_PLUGH has no meaning; `quern doctor`"), std::string::npos) << all;
  ::unsetenv("QUERN_THREAD");
  ::unsetenv("QUERN_XYZZY_PLUGH");
  for (const EnvInfo& v : all_variables()) EXPECT_EQ(&v, &all_variables()[static_cast<size_t>(v.variable)]);
  EXPECT_EQ(closest("tran", {"train", "run"}), "train");
  EXPECT_EQ(closest("zzzzz", {"train", "run"}), "");
}

}  // namespace
}  // namespace quern
