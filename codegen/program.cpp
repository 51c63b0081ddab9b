// Programs as files, and what they hold in memory. A .qpk is {"QUERNPK1", format version, xxh3 of the rest} and a
// FlatBuffer. Loading checks the checksum, then the FlatBuffer, then every id, offset and size: a program that loads
// can be run without further checks.
#include "codegen/program.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>

#include <flatbuffers/flatbuffers.h>
#include <fmt/format.h>

#include "codegen/image.h"
#include "ir/support/fault.h"
#include "ir/support/hash.h"
#include "ir/support/overloaded.h"
#include "ir/support/suggest.h"
#include "program_generated.h"

namespace quern {

std::string to_string(const Target& target) { return fmt::format("{}:{}", target.kind == TargetKind::cpu ? "cpu" : "cuda", target.arch); }

Target parse_target(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon), arch = colon == std::string::npos ? "" : text.substr(colon + 1);
  const auto one_of = [&](std::initializer_list<const char*> names) { return std::any_of(names.begin(), names.end(), [&](const char* n) { return arch == n; }); };
  if (kind == "cpu") {
    if (!arch.empty() && !one_of({"avx512", "avx2", "v128"})) throw Error(Code::unknown_target, fmt::format("target \"{}\": the CPU archs are avx512, avx2 and v128", text)).with_help(suggestion(arch, {"avx512", "avx2", "v128"}, "--target cpu is this machine's"));
    return {TargetKind::cpu, arch.empty() ? cpu::host_arch() : arch};
  }
  if (kind == "cuda") {
    if (!arch.empty() && arch.find_first_not_of("0123456789") == std::string::npos)
      throw Error(Code::unknown_target, fmt::format("target \"{}\" names a device; --target wants what to compile for, e.g. cuda:sm_90a (where to run is --device {})", text, text)).with_help("--target cuda:sm_90a, or --device " + text + " where a command runs something");
    if (!arch.empty() && !one_of({"sm_75", "sm_80", "sm_90a"})) throw Error(Code::unknown_target, fmt::format("target \"{}\": the CUDA archs are sm_75, sm_80 and sm_90a", text)).with_help(suggestion(arch, {"sm_75", "sm_80", "sm_90a"}, "--target cuda:sm_90a, say"));
    return {TargetKind::cuda, arch.empty() ? "sm_90a" : arch};
  }
  if (text == "null" || text == "interpret") throw Error(Code::unknown_target, fmt::format("\"{}\" is a device; --target wants what to compile for", text)).with_help(fmt::format("--target cpu, or --device {} where a command runs something", text));
  throw Error(Code::unknown_target, fmt::format("there is no target \"{}\"; targets are cpu, cpu:ARCH, cuda and cuda:ARCH", text)).with_help(suggestion(kind, {"cpu", "cuda"}, "--target cpu"));
}

void for_each_launch(const std::vector<Step>& steps, const std::function<void(const Launch&)>& f) {
  for (const Step& s : steps) {
    if (const auto* l = std::get_if<Launch>(&s)) f(*l);
    if (const auto* l = std::get_if<Loop>(&s)) for_each_launch(l->steps, f);
    if (const auto* w = std::get_if<While>(&s)) for_each_launch(w->steps, f);
    if (const auto* b = std::get_if<Branch>(&s)) for_each_launch(b->yes, f), for_each_launch(b->no, f);
  }
}

Shape Slot::shape_at(int64_t size) const {
  Shape out = shape;
  if (symbol) out[static_cast<size_t>(along)] = checked_mul(symbol, size);
  return out;
}

int64_t Slot::size_of_symbol(const Shape& given) const {
  const size_t d = static_cast<size_t>(along);
  return symbol > 0 && given.size() == shape.size() && given[d] % symbol == 0 ? given[d] / symbol : -1;
}

Rows Slot::rows_at(int64_t size) const {
  const int64_t rows = count(std::span(shape).first(static_cast<size_t>(symbol ? along : 0))), all = checked_mul(count(shape_at(size)), size_of(dtype));
  if (rows <= 1 || all == bytes() || planted(Fault::rows_packed)) return {1, all, all};
  return {rows, all / rows, bytes() / rows};
}

int64_t kept_bytes(const Program& program) {
  int64_t total = 0;
  for (const Slot& s : program.slots)
    if (s.kind == SlotKind::kept && s.parent < 0) total += round_up(s.bytes(), 64);
  return total;
}

int64_t planned_bytes(const Program& program, int threads, int input_sets) {
  int64_t total = round_up(program.arena_bytes, 64), scratch = 0;
  for (const Slot& s : program.slots)
    if (s.kind != SlotKind::arena && s.parent < 0) total += round_up(std::max<int64_t>(s.bytes(), 1), 64) * (s.kind == SlotKind::input ? input_sets : 1);
  for (const KernelImage& i : program.images) scratch = std::max(scratch, i.scratch_bytes);
  return total + scratch * threads;
}

// --- files ---

namespace {

constexpr char kMagic[8] = {'Q', 'U', 'E', 'R', 'N', 'P', 'K', '1'};
constexpr size_t kHead = 24;   // magic, version, checksum
constexpr uint64_t kVersion = 12;
constexpr int64_t kMaxFile = (int64_t{1} << 31) - 64;

// The verifier lets a forged list of longs start anywhere: read it as bytes.
std::vector<int64_t> longs(const flatbuffers::Vector<int64_t>& from) {
  std::vector<int64_t> out(from.size());
  if (!out.empty()) std::memcpy(out.data(), from.Data(), out.size() * sizeof(int64_t));
  return out;
}

constexpr int64_t kMaxGrid = int64_t{1} << 46;   // times the number of a worker it is still no overflow

// The driver gets no length: head, sections and segments of an ELF file must lie within.
bool is_cubin(const std::vector<uint8_t>& code) {
  constexpr uint64_t kFileHead = 64, kSectionHead = 64, kSegmentHead = 56;
  constexpr uint64_t kLoad = 1, kNoBits = 8, kStandard = 16;   // types: NVIDIA's own sections may take no bytes of the file
  const auto number = [&](uint64_t at, size_t bytes) {
    uint64_t out = 0;
    std::memcpy(&out, code.data() + at, bytes);
    return out;
  };
  const auto within = [&](uint64_t at, uint64_t bytes) { return at <= code.size() && bytes <= code.size() - at; };
  const uint8_t magic[] = {0x7f, 'E', 'L', 'F', 2, 1};   // of 64 bits, little endian
  if (code.size() < kFileHead || std::memcmp(code.data(), magic, sizeof magic) != 0) return false;
  const uint64_t segments = number(32, 8), sections = number(40, 8), segment_count = number(56, 2), section_count = number(60, 2);
  if (segment_count > 0 && (number(54, 2) != kSegmentHead || !within(segments, segment_count * kSegmentHead))) return false;
  if (section_count == 0 || number(58, 2) != kSectionHead || !within(sections, section_count * kSectionHead) || number(62, 2) >= section_count) return false;
  for (uint64_t i = 0; i < segment_count; ++i)
    if (const uint64_t at = segments + i * kSegmentHead; number(at, 4) == kLoad && !within(number(at + 8, 8), number(at + 32, 8))) return false;
  for (uint64_t i = 0; i < section_count; ++i)
    if (const uint64_t at = sections + i * kSectionHead, type = number(at + 4, 4); type != 0 && type != kNoBits && type < kStandard && !within(number(at + 24, 8), number(at + 32, 8))) return false;
  return true;
}

// The grid of a symbolic image at the bound is the greatest it may have.
bool grid_is_sound(const KernelImage& i) {
  if (i.symbol == 0) return true;
  if (i.symbol < 0 || i.symbol > kMaxExtent || i.tile < 1 || i.tile > kMaxExtent || i.others < 0) return false;
  int64_t most, grid;
  return !__builtin_mul_overflow(i.symbol, i.bound, &most) && most <= kMaxExtent && !__builtin_mul_overflow(ceil_div(most, i.tile), i.others, &grid) && grid == i.grid;
}

enum StepKind : uint8_t { kLaunch, kCopy, kLoop, kWhile, kBranch };

using StepList = flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<fbs::Step>>>;
StepList write_steps(flatbuffers::FlatBufferBuilder& b, const std::vector<Step>& from) {
  std::vector<flatbuffers::Offset<fbs::Step>> steps;
  for (const Step& s : from)
    std::visit(Overloaded{[&](const Launch& l) {
                            const auto images = b.CreateVector(l.images), slots = b.CreateVector(l.slots);
                            steps.push_back(fbs::CreateStep(b, kLaunch, 0, 0, images, slots));
                          },
                          [&](const Copy& c) { steps.push_back(fbs::CreateStep(b, kCopy, c.from, c.to)); },
                          [&](const Loop& l) {
                            const StepList inner = write_steps(b, l.steps);
                            const auto how = b.CreateVector(std::vector<int64_t>{l.symbol, l.backward});
                            steps.push_back(fbs::CreateStep(b, kLoop, l.id, l.count, 0, how, inner));
                          },
                          [&](const While& w) {
                            const StepList inner = write_steps(b, w.steps);
                            steps.push_back(fbs::CreateStep(b, kWhile, w.flag, 0, 0, 0, inner));
                          },
                          [&](const Branch& br) {
                            const StepList yes = write_steps(b, br.yes), no = write_steps(b, br.no);
                            steps.push_back(fbs::CreateStep(b, kBranch, br.flag, 0, 0, 0, yes, no));
                          }},
               static_cast<const std::variant<Launch, Copy, Loop, While, Branch>&>(s));
  return b.CreateVector(steps);
}

// A map names an operand, and the driver will take it.
bool map_is_sound(const TensorMap& m, const KernelImage& i) {
  const bool dtype = m.dtype == static_cast<int64_t>(DType::bf16) || m.dtype == static_cast<int64_t>(DType::f16) || m.dtype == static_cast<int64_t>(DType::boolean) || m.dtype == static_cast<int64_t>(DType::f8e4m3) || m.dtype == static_cast<int64_t>(DType::f8e5m2) || m.dtype == static_cast<int64_t>(DType::f32);
  if (!dtype || m.rounded < 0 || m.rounded > (m.dtype == static_cast<int64_t>(DType::f32)) || m.operand < 0 || m.operand >= i.operands || m.rank < 1 || m.rank > TensorMap::kMostDims || m.symbol < 0 || m.symbol > UINT32_MAX || m.along < 0 || m.along >= m.rank || (m.row_bytes != 32 && m.row_bytes != 64 && (m.row_bytes < 128 || m.row_bytes % 128 != 0 || m.row_bytes > 1024))) return false;
  for (int64_t d = 0; d < m.rank; ++d)
    if (m.extents[d] < 1 || m.extents[d] > UINT32_MAX || m.box[d] < 1 || m.box[d] > 256 || m.strides[d] < 1 || m.strides[d] >= int64_t{1} << 40) return false;
  return true;
}
// Whether all that a map reaches lies in the operand.
bool map_is_inside(const TensorMap& m, int64_t bytes) {
  int64_t last = size_of(static_cast<DType>(m.dtype));
  for (int64_t d = 0; d < m.rank; ++d) {
    const bool far = m.extents[d] - 1 > bytes / m.strides[d];
    if (far) return false;
    last += (m.extents[d] - 1) * m.strides[d];
  }
  return last <= bytes;
}

// The steps of a file, checked against the program's images and slots, which are there already.
class StepReader {
 public:
  StepReader(const Program& program, const std::function<void(bool, const char*)>& want) : p_(program), want_(want), open_(static_cast<size_t>(program.loops)), seen_(open_.size()) {}

  using List = flatbuffers::Vector<flatbuffers::Offset<fbs::Step>>;
  std::vector<Step> read_setup(const List* from) {
    setup_ = true;
    std::vector<Step> out = read(from);
    setup_ = false;
    return out;
  }
  std::vector<Step> read(const List* from, int depth = 0) {
    std::vector<Step> out;
    want_(from && depth <= kMaxNesting, "damaged: a list of steps");
    for (const fbs::Step* s : *from) {
      want_(s && s->kind() <= kBranch, "damaged: a step");
      switch (s->kind()) {
        case kLaunch: out.push_back(launch(*s)); break;
        case kCopy: {
          const Slot &a = slot(s->first()), &b = written(s->second());
          const Rows from = a.rows_at(p_.size_low), to = b.rows_at(p_.size_low);
          want_(a.bytes() == b.bytes() && (a.symbol > 0) == (b.symbol > 0) && from.count == to.count && from.bytes == to.bytes, "damaged: a copy");
          out.push_back(Copy{s->first(), s->second()});
          break;
        }
        case kLoop: {
          want_(s->first() >= 0 && s->first() < p_.loops && !seen_[static_cast<size_t>(s->first())] && s->second() >= 0 && s->second() <= kMaxExtent, "damaged: a loop");
          want_(s->slots() && s->slots()->size() == 2, "damaged: a loop");
          const std::vector<int64_t> how = longs(*s->slots());   // symbol, backward
          want_(how[0] >= 0 && (how[0] == 0 || static_cast<__int128>(how[0]) * p_.size_high == s->second()) && (how[1] == 0 || how[1] == 1), "damaged: a loop's steps");
          seen_[static_cast<size_t>(s->first())] = open_[static_cast<size_t>(s->first())] = 1;
          out.push_back(Loop{s->first(), s->second(), read(s->steps(), depth + 1), how[0], how[1] == 1});
          open_[static_cast<size_t>(s->first())] = 0;
          break;
        }
        case kWhile:
          flag(s->first());
          out.push_back(While{s->first(), read(s->steps(), depth + 1)});
          break;
        default:
          flag(s->first());
          out.push_back(Branch{s->first(), read(s->steps(), depth + 1), read(s->others(), depth + 1)});
      }
    }
    return out;
  }

 private:
  const Program& p_;
  const std::function<void(bool, const char*)>& want_;
  std::vector<char> open_, seen_;   // loops that are around the step; that have been met
  bool setup_ = false;              // the steps at hand run once

  // A slot that has a place here: those of a loop have one only inside of it.
  const Slot& slot(int64_t id) const {
    want_(id >= 0 && id < static_cast<int64_t>(p_.slots.size()), "damaged: a step's slot");
    for (int64_t s = id; s >= 0; s = p_.slots[static_cast<size_t>(s)].parent)
      want_(p_.slots[static_cast<size_t>(s)].loop < 0 || open_[static_cast<size_t>(p_.slots[static_cast<size_t>(s)].loop)], "damaged: a loop's slot outside of it");
    const Slot& found = p_.slots[static_cast<size_t>(id)];
    want_(!setup_ || (found.kind != SlotKind::input && found.kind != SlotKind::output), "damaged: setup takes what a run brings or makes");
    return found;
  }
  // What setup keeps is its own, and all that it leaves.
  const Slot& written(int64_t id) const {
    const Slot& s = slot(id);
    want_(s.kind == SlotKind::arena || (s.kind == SlotKind::kept) == setup_, "damaged: a step writes what is not its own");
    return s;
  }
  void flag(int64_t id) const {
    const Slot& s = slot(id);
    want_(s.dtype == DType::boolean && s.shape.empty(), "damaged: a flag");
  }
  Launch launch(const fbs::Step& s) const {
    want_(s.images() && s.slots(), "damaged: a list is missing");
    Launch l{longs(*s.images()), longs(*s.slots())};
    want_(l.images.size() == 1 || (!l.images.empty() && l.images.size() == p_.bounds.size()), "damaged: a launch's kernels");
    for (int64_t id : l.slots) {
      slot(id);
      for (int64_t at = id; at >= 0; at = p_.slots[static_cast<size_t>(at)].parent)
        want_(p_.slots[static_cast<size_t>(at)].offset % 64 == 0 && p_.slots[static_cast<size_t>(at)].stride % 64 == 0, "damaged: an operand's place");
    }
    for (size_t i = 0; i < l.images.size(); ++i) {
      want_(l.images[i] >= 0 && l.images[i] < static_cast<int64_t>(p_.images.size()), "damaged: a number in a list");
      const KernelImage& image = p_.images[static_cast<size_t>(l.images[i])];
      want_(static_cast<int64_t>(l.slots.size()) == image.operands, "damaged: a launch's operands");
      for (int64_t o = image.operands - image.outputs; o < image.operands; ++o) written(l.slots[static_cast<size_t>(o)]);
      for (const TensorMap& m : image.maps) want_(map_is_inside(m, p_.slots[static_cast<size_t>(l.slots[static_cast<size_t>(m.operand)])].bytes()), "damaged: a tensor map's operand");
      want_(image.bound == 0 || image.bound >= (l.images.size() == 1 ? p_.size_high : p_.bounds[i]), "damaged: a kernel's bound");
    }
    return l;
  }
};

}  // namespace

int64_t stored_bytes(const Program& p) {
  int64_t large = static_cast<int64_t>(p.graph_text.size());   // the rest is small
  for (const KernelImage& i : p.images) large += static_cast<int64_t>(i.code.size() + i.source.size());
  for (const Slot& s : p.slots)
    if (s.kind == SlotKind::constant && s.parent < 0) large += s.bytes();
  return large;
}

std::vector<uint8_t> save_program(const Program& p) {
  const int64_t large = stored_bytes(p);
  constexpr int64_t kRest = 64 << 20;
  if (large > kMaxFile - kRest)
    throw Error(Code::file_too_large, fmt::format("a package has less than 2 GiB, this program's constants and code have {} bytes", large)).with_help("make large constants inputs or states: `quern run --weights` sets them");
  flatbuffers::FlatBufferBuilder b;
  std::vector<flatbuffers::Offset<fbs::Image>> images;
  for (const KernelImage& i : p.images) {
    const auto bytes = b.CreateVector(save_image(i));
    const auto lines = b.CreateString(i.lines);
    images.push_back(fbs::CreateImage(b, bytes, i.flops, i.bytes, lines));
  }
  std::vector<flatbuffers::Offset<fbs::Slot>> slots;
  for (const Slot& s : p.slots) {
    const auto shape = b.CreateVector(s.shape);
    const auto name = b.CreateString(s.name);
    const auto value = b.CreateVector(reinterpret_cast<const uint8_t*>(s.value.bytes.data()), s.kind == SlotKind::constant && s.parent < 0 ? s.value.bytes.size() : 0);
    slots.push_back(fbs::CreateSlot(b, static_cast<uint8_t>(s.kind), static_cast<uint8_t>(s.dtype), shape, name, s.offset, s.symbol, s.parent, value, s.loop, s.stride, s.first, s.step, s.entries, s.along));
  }
  const auto arch = b.CreateString(p.target.arch), graph = b.CreateString(p.graph_text);
  const auto image_list = b.CreateVector(images);
  const auto slot_list = b.CreateVector(slots);
  const auto inputs = b.CreateVector(p.inputs), outputs = b.CreateVector(p.outputs), states = b.CreateVector(p.states);
  const StepList setup = write_steps(b, p.setup), steps = write_steps(b, p.steps);
  const auto bounds = b.CreateVector(p.bounds);
  b.Finish(fbs::CreateProgram(b, static_cast<uint8_t>(p.target.kind), arch, graph, image_list, slot_list, inputs, outputs, states, steps, p.size_low, p.size_high, bounds, p.arena_bytes, p.lower_bound, p.loops, setup));
  std::vector<uint8_t> out(kHead + b.GetSize());
  std::memcpy(out.data() + kHead, b.GetBufferPointer(), b.GetSize());
  const uint64_t checksum = hash64({reinterpret_cast<const char*>(out.data() + kHead), b.GetSize()});
  std::memcpy(out.data(), kMagic, 8);
  std::memcpy(out.data() + 8, &kVersion, 8);
  std::memcpy(out.data() + 16, &checksum, 8);
  return out;
}

// Of the program read so far: what a launch takes from an image is within what launches may have.
static bool image_is_sound(const KernelImage& i, const Program& p) {
  const bool cuda = p.target.kind == TargetKind::cuda, code = cuda ? is_cubin(i.code) : i.entry < static_cast<int64_t>(i.code.size());
  const bool launch = i.grid >= 0 && i.grid <= (cuda ? INT32_MAX : kMaxGrid) && grid_is_sound(i) && i.threads >= 1 && i.threads <= 1024;
  const bool memory = i.scratch_bytes >= 0 && i.shared_bytes >= 0 && i.shared_bytes <= (1 << 20);
  const bool maps = i.resident >= 0 && i.resident <= 32 && (i.cluster == 0 || (i.cluster == i.grid && i.cluster <= 16 && i.symbol == 0)) && (i.waits == 0 || i.waits == 1) && (i.alone == 0 || i.alone == 1) && std::all_of(i.maps.begin(), i.maps.end(), [&](const TensorMap& m) { return map_is_sound(m, i); });
  return i.entry >= 0 && code && launch && memory && maps && i.bound >= 0 && i.bound <= p.size_high && i.outputs >= 0 && i.outputs <= i.operands;
}

Program load_program(const std::vector<uint8_t>& bytes, const std::string& file) {
  const auto fail = [&](Code code, const char* what) { throw Error(code, fmt::format("{}: {}", file, what)).with_help("compile it again with `quern compile`"); };
  const std::function<void(bool, const char*)> want = [&](bool condition, const char* what) {
    if (!condition) fail(Code::damaged_package, what);
  };
  if (bytes.size() <= kHead || static_cast<int64_t>(bytes.size()) >= kMaxFile) fail(Code::not_a_package, "not a Quern program: wrong size");
  if (std::memcmp(bytes.data(), kMagic, 8) != 0) fail(Code::not_a_package, "not a Quern program: wrong magic");
  uint64_t version, checksum;
  std::memcpy(&version, bytes.data() + 8, 8);
  std::memcpy(&checksum, bytes.data() + 16, 8);
  if (version != kVersion) fail(Code::other_version, "written by another version of Quern");
  const size_t size = bytes.size() - kHead;
  want(hash64({reinterpret_cast<const char*>(bytes.data() + kHead), size}) == checksum, "damaged: the checksum does not match");
  std::vector<uint64_t> aligned((size + 7) / 8);   // FlatBuffers want alignment
  std::memcpy(aligned.data(), bytes.data() + kHead, size);
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(aligned.data()), size, 32, static_cast<flatbuffers::uoffset_t>(std::min<size_t>(1000000, size / 8 + 8)));
  want(verifier.VerifyBuffer<fbs::Program>(nullptr), "damaged: not a valid FlatBuffer");
  const fbs::Program& in = *flatbuffers::GetRoot<fbs::Program>(aligned.data());
  want(in.target_kind() <= 1 && in.target_arch() && in.graph() && in.images() && in.slots() && in.inputs() && in.outputs() && in.states() && in.setup() && in.steps(), "damaged: a part is missing");

  Program p;
  p.target = {static_cast<TargetKind>(in.target_kind()), in.target_arch()->str()};
  p.graph_text = in.graph()->str();
  p.arena_bytes = in.arena_bytes();
  p.lower_bound = in.lower_bound();
  p.loops = in.loops();
  want(p.loops >= 0 && p.loops <= static_cast<int64_t>(bytes.size()), "damaged: the number of loops");
  p.size_low = in.size_low(), p.size_high = in.size_high();
  if (in.bounds()) p.bounds = longs(*in.bounds());
  want(std::is_sorted(p.bounds.begin(), p.bounds.end()) && (p.bounds.empty() || (p.bounds.front() >= 1 && p.bounds.back() == p.size_high)), "damaged: the kernels' bounds");
  want(1 <= p.size_low && p.size_low <= p.size_high && p.size_high <= kMaxSize, "damaged: the symbol's bounds");
  want(p.arena_bytes >= 0 && p.arena_bytes <= (int64_t{1} << 46), "damaged: the arena's size");
  for (const fbs::Image* i : *in.images()) {
    want(i && i->bytes() && i->lines(), "damaged: an image is missing");
    auto image = load_image({i->bytes()->begin(), i->bytes()->end()});
    want(image && image_is_sound(*image, p), "damaged: an image");
    image->flops = i->flops();
    image->bytes = i->traffic();
    image->lines = i->lines()->str();
    p.images.push_back(std::move(*image));
  }
  const int64_t slot_count = static_cast<int64_t>(in.slots()->size());
  for (const fbs::Slot* s : *in.slots()) {
    want(s && s->shape() && s->name() && s->kind() <= static_cast<uint8_t>(SlotKind::kept) && s->dtype() < kDTypeCount, "damaged: a slot");
    Slot slot;
    slot.kind = static_cast<SlotKind>(s->kind());
    slot.dtype = static_cast<DType>(s->dtype());
    slot.shape = longs(*s->shape());
    want(slot.shape.size() <= kMaxRank, "damaged: a slot's rank");
    for (int64_t d : slot.shape) want(d >= 0 && d <= kMaxExtent, "damaged: a slot's shape");
    try {
      slot.bytes();
    } catch (const Error&) {
      want(false, "damaged: a slot's size");
    }
    slot.symbol = s->symbol(), slot.along = s->along();
    want(slot.symbol >= 0 && slot.symbol <= kMaxExtent && slot.along >= 0 && (slot.symbol == 0 ? slot.along == 0 : slot.along < static_cast<int64_t>(slot.shape.size()) && static_cast<__int128>(slot.symbol) * p.size_high == slot.shape[static_cast<size_t>(slot.along)]), "damaged: a slot's symbol");
    want(slot.symbol == 0 || slot.kind != SlotKind::state, "damaged: a symbolic state");
    slot.name = s->name()->str();
    slot.offset = s->offset();
    slot.parent = s->parent();
    want(slot.parent >= -1 && slot.parent < static_cast<int64_t>(p.slots.size()) && slot.offset >= 0, "damaged: a slot's place");
    slot.loop = s->loop(), slot.stride = s->stride(), slot.first = s->first(), slot.step = s->step(), slot.entries = s->entries();
    want(slot.loop < 0 ? slot.loop == -1 : slot.loop < p.loops && slot.parent >= 0 && slot.entries >= 1 && slot.entries <= kMaxExtent && slot.stride >= 0 && slot.stride <= (int64_t{1} << 46) && slot.first >= 0 && slot.first < slot.entries && slot.step >= -1 && slot.step <= 1, "damaged: a loop's slot");
    if (slot.kind == SlotKind::arena && slot.parent < 0) want(slot.offset % 64 == 0 && slot.bytes() <= p.arena_bytes - slot.offset, "damaged: a slot outside the arena");
    if (slot.kind == SlotKind::constant && slot.parent < 0) {
      want(s->value() && static_cast<int64_t>(s->value()->size()) == slot.bytes(), "damaged: a constant's value");
      slot.value = HostTensor(slot.dtype, slot.shape);
      if (slot.bytes() > 0) std::memcpy(slot.value.bytes.data(), s->value()->data(), s->value()->size());
    }
    p.slots.push_back(std::move(slot));
  }
  constexpr int64_t kMaxTotal = int64_t{1} << 50;   // so that planned_bytes cannot overflow
  int64_t total = 0;
  for (const Slot& s : p.slots) {
    want(s.bytes() <= kMaxTotal - total, "damaged: the slots' total size");
    total += s.bytes();
  }
  for (const KernelImage& i : p.images) want(i.scratch_bytes <= (int64_t{1} << 40), "damaged: an image's scratch");
  for (const Slot& s : p.slots)
    if (s.parent >= 0) {
      const Slot& parent = p.slots[static_cast<size_t>(s.parent)];
      want((parent.kind == SlotKind::arena) == (s.kind == SlotKind::arena) && parent.kind == s.kind && s.offset <= parent.bytes() && s.bytes() <= parent.bytes() - s.offset, "damaged: a sub-range");
      const int64_t left = parent.bytes() - s.offset - s.bytes();   // to go further in
      want(s.loop < 0 || s.entries == 1 || s.stride <= left / (s.entries - 1), "damaged: a sub-range of a loop");
    }
  const auto ids = [&](const flatbuffers::Vector<int64_t>* from, std::vector<int64_t>& to, int64_t limit) {
    want(from != nullptr, "damaged: a list is missing");
    to = longs(*from);
    for (int64_t id : to) want(id >= 0 && id < limit, "damaged: a number in a list");
  };
  ids(in.inputs(), p.inputs, slot_count);
  ids(in.outputs(), p.outputs, slot_count);
  ids(in.states(), p.states, slot_count);
  // Every input, output and state is listed once: whoever sets what the lists name has set all.
  const auto roles = [&](const std::vector<int64_t>& listed, SlotKind kind) {
    std::set<int64_t> slots;
    std::set<std::string> names;
    for (int64_t id : listed) {
      const Slot& s = p.slots[static_cast<size_t>(id)];
      want(s.kind == kind && slots.insert(id).second && (kind != SlotKind::state || names.insert(s.name).second), "damaged: a list of inputs, outputs or states");
    }
    const auto unlisted = [&](const Slot& s) { return s.kind == kind && s.parent < 0 && !slots.count(&s - p.slots.data()); };
    want(std::none_of(p.slots.begin(), p.slots.end(), unlisted), "damaged: an input, output or state is in no list");
  };
  roles(p.inputs, SlotKind::input);
  roles(p.outputs, SlotKind::output);
  roles(p.states, SlotKind::state);
  StepReader reader(p, want);
  p.setup = reader.read_setup(in.setup());
  p.steps = reader.read(in.steps());
  return p;
}

}  // namespace quern
