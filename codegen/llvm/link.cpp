// LLVM IR → machine code → image: a light pass pipeline, the object in memory, then its sections laid out in one
// position-independent blob. The only relocations are relative ones inside the blob; an undefined symbol or an
// absolute relocation is refused.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <llvm/ADT/SmallVector.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Config/llvm-config.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/IR/Verifier.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Object/ELFObjectFile.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>
#include <llvm/TargetParser/Host.h>
#include <llvm/Transforms/InstCombine/InstCombine.h>
#include <llvm/Transforms/Scalar/EarlyCSE.h>
#include <llvm/Transforms/Scalar/LICM.h>
#include <llvm/Transforms/Scalar/LoopPassManager.h>
#include <llvm/Transforms/Scalar/SimplifyCFG.h>

#include "codegen/image.h"
#include "codegen/llvm/emit.h"
#include "ir/support/overloaded.h"
#include "passes/tile/plan.h"

namespace quern::cpu {
namespace {

const char* features_of(const std::string& arch) {
  if (arch == "avx512") return "+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,+avx2,+fma,+bmi,+bmi2,-prefer-256-bit";
  if (arch == "avx2") return "+avx2,+fma,+bmi,+bmi2";
  return "+sse4.2";
}

std::unique_ptr<llvm::TargetMachine> target_machine(const std::string& arch) {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
  });
  std::string error;
  const std::string triple = "x86_64-unknown-linux-gnu";
  const llvm::Target* target = llvm::TargetRegistry::lookupTarget(triple, error);
  QN_CHECK(target, "LLVM has the x86 target: " + error);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Standard;   // only where the IR asks (fmuladd)
  return std::unique_ptr<llvm::TargetMachine>(target->createTargetMachine(triple, "x86-64", features_of(arch), options, llvm::Reloc::PIC_,
                                                                          llvm::CodeModel::Small, llvm::CodeGenOptLevel::Default));
}

void optimise(llvm::Module& module, llvm::TargetMachine& machine) {
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager sccs;
  llvm::ModuleAnalysisManager modules;
  llvm::PassBuilder builder(&machine);
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(sccs);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, sccs, modules);
  llvm::FunctionPassManager passes;
  passes.addPass(llvm::EarlyCSEPass(true));
  passes.addPass(llvm::InstCombinePass());
  passes.addPass(llvm::createFunctionToLoopPassAdaptor(llvm::LICMPass(llvm::LICMOptions()), true));
  passes.addPass(llvm::SimplifyCFGPass());
  for (llvm::Function& f : module)
    if (!f.isDeclaration()) passes.run(f, functions);
}

// Lays the allocated sections of an object out one after another and resolves the relocations among them.
class Linker {
 public:
  explicit Linker(llvm::StringRef object) {
    auto file = llvm::object::ObjectFile::createELFObjectFile(llvm::MemoryBufferRef(object, "kernel"));
    QN_CHECK(static_cast<bool>(file), "LLVM's object reads back");
    object_ = std::move(*file);
  }
  int64_t link(const std::string& entry, std::vector<uint8_t>& out) {
    for (const llvm::object::SectionRef& section : object_->sections()) {
      const auto flags = llvm::object::ELFSectionRef(section).getFlags();
      if (!(flags & llvm::ELF::SHF_ALLOC) || section.getSize() == 0) continue;
      const llvm::StringRef name = text(section.getName());
      if (name == ".eh_frame") continue;
      QN_CHECK(!(flags & llvm::ELF::SHF_WRITE), "a kernel has no writable data");
      out.resize(static_cast<size_t>(round_up(static_cast<int64_t>(out.size()), std::max<int64_t>(64, static_cast<int64_t>(section.getAlignment().value())))));
      place_[section.getIndex()] = static_cast<int64_t>(out.size());
      const llvm::StringRef contents = text(section.getContents());
      out.insert(out.end(), contents.begin(), contents.end());
    }
    for (const llvm::object::SectionRef& section : object_->sections()) {
      auto target = section.getRelocatedSection();
      if (!target || *target == object_->section_end() || !place_.count((*target)->getIndex())) continue;
      for (const llvm::object::ELFRelocationRef relocation : section.relocations()) apply(relocation, place_.at((*target)->getIndex()), out);
    }
    for (const llvm::object::SymbolRef& symbol : object_->symbols())
      if (text(symbol.getName()) == entry) return address(symbol);
    QN_CHECK(false, "the object defines its entry");
    return 0;
  }

 private:
  std::unique_ptr<llvm::object::ObjectFile> object_;
  std::map<uint64_t, int64_t> place_;   // section → offset in the blob

  template <class T>
  static T text(llvm::Expected<T> value) {
    QN_CHECK(static_cast<bool>(value), "LLVM's object is well formed");
    return *value;
  }
  int64_t address(const llvm::object::SymbolRef& symbol) {
    const auto section = text(symbol.getSection());
    QN_CHECK(section != object_->section_end() && place_.count(section->getIndex()), fmt::format("a kernel has no undefined symbol ({})", text(symbol.getName()).str()));
    return place_.at(section->getIndex()) + static_cast<int64_t>(text(symbol.getValue()));
  }
  void apply(const llvm::object::ELFRelocationRef& r, int64_t base, std::vector<uint8_t>& out) {
    const uint64_t type = r.getType();
    QN_CHECK(type == llvm::ELF::R_X86_64_PC32 || type == llvm::ELF::R_X86_64_PLT32 || type == llvm::ELF::R_X86_64_PC64, fmt::format("a kernel has only relative relocations (type {})", type));
    const int64_t at = base + static_cast<int64_t>(r.getOffset());
    const int64_t value = address(*r.getSymbol()) + text(r.getAddend()) - at;
    const size_t width = type == llvm::ELF::R_X86_64_PC64 ? 8 : 4;
    QN_CHECK(width == 8 || (value >= INT32_MIN && value <= INT32_MAX), "a relocation is in reach");
    std::memcpy(out.data() + at, &value, width);
  }
};

std::atomic<int64_t> compiled{0};

constexpr const char* kPhases[] = {"emit", "optimise", "machine code", "link"};
using Times = std::array<double, 4>;   // milliseconds of each

// About how many instructions a block becomes: the elements of its tiles, as vectors, times the ops on each.
double length_of(const tile::Kernel& k, const tile::Block& block, int lanes) {
  const auto elements = [&](const std::vector<tile::AxisId>& axes) {
    double n = 1;
    for (tile::AxisId a : axes) {
      const tile::Axis& axis = k.axes[static_cast<size_t>(a)];
      const int64_t tile = std::min(axis.tile, axis.extent);
      n *= static_cast<double>(axis.lanes ? ceil_div(tile, int64_t{lanes}) : tile);
    }
    return n;
  };
  const auto of = [&](tile::ValueId v) { return elements(k.values[static_cast<size_t>(v)].axes); };
  double total = 0;
  for (const tile::Stmt& s : block)
    total += std::visit(Overloaded{[&](const tile::Load& l) { return of(l.out); }, [&](const tile::MapTile& m) { return of(m.out) * static_cast<double>(m.expr.size()); },
                                   [&](const tile::ReduceTile& r) { return of(r.arg); }, [&](const tile::Mma& m) { return of(m.out) * elements(m.axes); },
                                   [&](const tile::Seq& q) { return length_of(k, q.body, lanes); }, [&](const tile::Each& e) { return length_of(k, e.body, lanes); },
                                   [&](const tile::Store& t) { return of(t.value); }, [](const tile::InRole&) { return 0.0; }},
                        s.node);
  return total;
}

KernelImage compile_one(const tile::Kernel& kernel, llvm::TargetMachine& machine, const std::string& arch, bool want_source, Times& times) {
  ++compiled;
  auto start = std::chrono::steady_clock::now();
  const auto lap = [&](size_t phase) {
    const auto now = std::chrono::steady_clock::now();
    times[phase] += std::chrono::duration<double, std::milli>(now - std::exchange(start, now)).count();
  };
  llvm::LLVMContext context;
  llvm::Module module("module", context);
  module.setTargetTriple("x86_64-unknown-linux-gnu");
  module.setDataLayout(machine.createDataLayout());
  emit(kernel, "kernel", cpu_arch(arch), module);
  std::string problem;
  llvm::raw_string_ostream problems(problem);
  QN_CHECK(!llvm::verifyModule(module, &problems), "LLVM accepts the kernel: " + problem + to_string(kernel));
  lap(0);
  optimise(module, machine);
  lap(1);
  KernelImage image;
  image.name = kernel.name;
  if (want_source) {
    llvm::raw_string_ostream stream(image.source);
    module.print(stream, nullptr);
  }
  llvm::SmallVector<char, 0> object;
  llvm::raw_svector_ostream stream(object);
  llvm::legacy::PassManager passes;
  QN_CHECK(!machine.addPassesToEmitFile(passes, stream, nullptr, llvm::CodeGenFileType::ObjectFile), "LLVM emits objects");
  passes.run(module);
  lap(2);
  image.entry = Linker(llvm::StringRef(object.data(), object.size())).link("kernel", image.code);
  image.scratch_bytes = scratch_bytes(kernel);
  set_grid(image, kernel);
  lap(3);
  return image;
}

}  // namespace

std::vector<KernelImage> compile(const std::vector<tile::Kernel>& kernels, const std::string& arch, bool want_source, std::vector<std::pair<std::string, double>>* times) {
  std::vector<KernelImage> out(kernels.size());
  std::vector<double> length;
  for (const tile::Kernel& k : kernels) length.push_back(length_of(k, k.phases.at(0).body, cpu_arch(arch).lanes));
  std::vector<size_t> order(kernels.size());   // the longest first, so that no thread is left alone with it at the end
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return length[a] > length[b]; });
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::mutex mutex;
  Times all{};
  const auto work = [&] {
    Times mine{};
    std::unique_ptr<llvm::TargetMachine> machine;
    for (size_t n; (n = next++) < kernels.size();) try {
        const size_t i = order[n];
        if (!machine) machine = target_machine(arch);
        out[i] = compile_one(kernels[i], *machine, arch, want_source, mine);
      } catch (...) {
        const std::lock_guard lock(mutex);
        error = std::current_exception();
      }
    const std::lock_guard lock(mutex);
    for (size_t p = 0; p < all.size(); ++p) all[p] += mine[p];
  };
  std::vector<std::thread> threads;
  const size_t wanted = std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()), kernels.size());
  for (size_t t = 1; t < wanted; ++t) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
  if (error) std::rethrow_exception(error);
  for (size_t p = 0; times && p < all.size(); ++p) times->emplace_back(kPhases[p], all[p]);
  return out;
}

int64_t compiled_kernels() { return compiled; }

std::string host_arch() {
  const llvm::StringMap<bool> features = llvm::sys::getHostCPUFeatures();
  const auto all = [&](std::initializer_list<const char*> names) {
    return std::all_of(names.begin(), names.end(), [&](const char* n) { return features.lookup(n); });
  };
  if (all({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"})) return "avx512";
  return all({"avx2", "fma"}) ? "avx2" : "v128";
}

std::string compiler_version() { return "llvm " LLVM_VERSION_STRING ""; }

}  // namespace quern::cpu
