// The CUDA emitter's state: where each axis of the kernel lies in the block, and what has been written so far.
// A tile is an array of a thread's registers, its axes' registers in mixed radix, the last axis fastest; loops over
// registers are unrolled by the compiler. Every statement runs on all threads of the block: masks guard memory alone.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "codegen/program.h"
#include "ir/tile/kernel.h"
#include "passes/tile/atoms.h"
#include "passes/tile/overwrite.h"

namespace quern::cuda {

/// Where an axis lies: its first element (a variable), this thread's first element in the tile, and its registers.
struct Place {
  std::string start;             // "i0"; empty: 0
  std::string base;              // "t0"; empty: 0
  int64_t extent = 1, tile = 1, threads = 1, vector = 1, registers = 1;
  bool masked = false;           // some tile reaches past the limit
  bool symbolic = false;         // a loop over a symbolic extent
  std::string limit;             // the extent, then in terms of the symbol `n`
  std::string tiles() const {    // how many the limit has; a size is at least 1
    return symbolic && extent > tile ? fmt::format("(({} + {}) / {})", limit, tile - 1, tile) : fmt::format("{}", ceil_div(extent, tile));
  }
};

class Emitter {
 public:
  Emitter(const tile::Kernel& kernel, int arch);
  /// The function's text, without the prelude.
  std::string run(const std::string& name);
  int64_t threads() const { return threads_; }
  bool waits() const { return arch_ >= 90; }   // for the kernels before it, by itself
  bool remembers() const { return claims_ || turns_; }   // between its launches, in memory that its module has
  int64_t shared_bytes() const { return scratch_bytes_ + shared_bytes_; }
  const std::vector<TensorMap>& maps() const { return maps_; }

 private:
  using Places = std::vector<Place>;
  using Registers = std::map<tile::AxisId, std::string>;   // the register of each axis, as an expression

  const tile::Kernel& k_;
  const int arch_;               // 75, 80, 90
  int64_t threads_ = 32;
  int64_t scratch_bytes_ = 0;    // of the kernel's scratch, at the start of shared memory
  int64_t shared_bytes_ = 0;     // most that any other use of it wants, behind
  std::string instance_ = "blockIdx.x", sync_ = "__syncthreads();";   // the number of the grid instance; all its threads meet
  int repeats_ = 0;              // loops of several steps around the statement
  bool products_ = true;         // are there any? (With roles, as if.)
  Places places_;
  std::string out_, indent_ = "  ";
  std::map<tile::ValueId, std::string> names_;

  std::string params() const;
  void place_scratch();
  void instance();
  std::string run_cluster(const std::string& name);   // cluster.cpp

  // --- text ---
  void line(const std::string& text) { out_ += indent_ + text + "\n"; }
  void open(const std::string& head);
  void close();
  const tile::Buffer& buffer(tile::BufferId b) const { return k_.buffers[static_cast<size_t>(b)]; }
  const tile::Value& value(tile::ValueId v) const { return k_.values[static_cast<size_t>(v)]; }
  std::string name(tile::ValueId v) const { return names_.at(v); }
  std::string define(tile::ValueId v, const Places& places, const std::string& prefix = "v");

  // --- places and coordinates ---
  const Place& place(tile::AxisId a) const { return places_[static_cast<size_t>(a)]; }
  static int64_t registers(const std::vector<tile::AxisId>& axes, const Places& places);
  std::string at(tile::ValueId v, const Registers& r, const Places& places) const;
  static std::string local(const Place& p, const std::string& reg);        // within the tile
  std::string coordinate(tile::AxisId a, const Registers& r, const Places& places) const;
  std::string index(const Index& e, const Registers& r, const Places& places) const;
  bool wide_index() const;
  bool is_wide(tile::BufferId b, const std::vector<tile::BoxIndex>& box) const;
  std::string mirrored(tile::AxisId i, tile::AxisId j);
  void axis_base(tile::AxisId a);   // declares where this thread stands in the axis's tile
  /// Unrolled loops over the registers of `axes`; the step along `stepped` is its vector.
  void over(const std::vector<tile::AxisId>& axes, const Places& places, tile::AxisId stepped, Registers& r, const std::function<void()>& body);
  std::string inside(const std::vector<tile::AxisId>& axes, const Registers& r, const Places& places) const;   // "" where proven

  // --- memory ---
  struct Spot { std::string position, condition; };
  Spot spot(tile::BufferId b, const std::vector<tile::BoxIndex>& box, const std::vector<tile::AxisId>& axes, const Registers& r, const Places& places) const;
  tile::AxisId vector_axis(tile::BufferId b, const std::vector<tile::BoxIndex>& box, const std::vector<tile::AxisId>& axes, const Places& places, const tile::Load* load = nullptr) const;
  int64_t factor(const Index& e, tile::AxisId vector, int64_t elements) const;
  std::string owner(const std::vector<tile::AxisId>& axes) const;          // true for one of the threads with equal copies
  int64_t bits(const std::vector<tile::AxisId>& axes) const;               // of the thread number

  // --- statements ---
  void block(const tile::Block& stmts);
  void load(const tile::Load& l, const Places& places, const std::string& prefix);
  void read(const tile::Load& l, const Places& places, tile::AxisId vector);   // into its registers
  void ask_ahead(const tile::Load& l, const Places& places, tile::AxisId vector);
  bool is_again(const tile::Load& l) const;
  tile::AxisId loop_ = -1;       // of the seq around
  void map(const tile::MapTile& m, const Places& places, const std::string& prefix) {
    define(m.out, places, prefix);
    map_elements(m, places);
  }
  void map_elements(const tile::MapTile& m, const Places& places);
  void elements(const tile::MapTile& m, const Places& places, const std::map<size_t, std::string>& inverses);
  Overwritten overwritten_;
  // A loop may overwrite what lies in this block's rows: every thread has read it.
  void meet_before(const tile::Block& body) {
    if (std::count(overwritten_.loops.begin(), overwritten_.loops.end(), &body)) line(sync_);
  }
  bool is_read(tile::BufferId b) const;
  bool is_own(tile::BufferId b) const;
  std::optional<int64_t> stride_in_vector(const Index& e, tile::AxisId a, int64_t vector) const;
  bool walk_ahead(const tile::Seq& q);
  bool walk_own_steps(const tile::Seq& q);
  tile::AxisId turned_axis(const tile::Load& l) const;   // -1: none
  void load_turned(const tile::Load& l, tile::AxisId across);
  void to_shared(const std::vector<tile::AxisId>& axes, const tile::Load& l, const tile::Store& s);
  void statement(const tile::Load& l) {
    if (const tile::AxisId across = turned_axis(l); across >= 0) load_turned(l, across);
    else load(l, places_, "v");
  }
  void statement(const tile::MapTile& m) {
    if (!role_ || (!take(m) && !fragment_map(m))) map(m, places_, "v");
  }
  void statement(const tile::ReduceTile& r) {
    if (!fragment_reduce(r)) reduce(r);
  }
  void reduce(const tile::ReduceTile& r);
  void statement(const tile::Mma& m);
  void statement(const tile::Seq& q);
  void statement(const tile::Each& e);
  void statement(const tile::Store& s);
  void statement(const tile::InRole& s);
  void loops(const std::vector<tile::AxisId>& axes, const std::function<void()>& body);
  /// Combines the copies of `v` that lie along the given bits of the thread number; all threads get the result, or,
  /// scattered, each warp a share of the registers: then the value's axes lie elsewhere from here on.
  enum class Result { everywhere, scattered };
  void across(tile::ValueId v, Op combine, int64_t bits, Result result = Result::everywhere);
  void scatter(tile::ValueId v, int64_t warps);
  /// The only loop at the top, whose sum may be scattered over the warps that shared it; null where there is none.
  const tile::Seq* scattered_sum() const;
  void sum_then_rest(const tile::Seq& q);
  /// Carries that stay per thread until the loop ends, with what combines them.
  std::map<size_t, Op> deferred(const tile::Seq& q) const;
  std::map<tile::ValueId, bool> partial_;   // reductions left per thread
  const tile::Seq* scattered_ = nullptr;
  std::map<tile::AxisId, int64_t> scattered_bits_;

  // --- staged products (stage.cpp) ---
  struct Operand;
  bool is_staged(const tile::Seq& q) const;
  void staged(const tile::Seq& q);
  Operand operand(const tile::Mma& m, bool columns, const tile::Seq& q) const;
  const tile::Stmt* definition(tile::ValueId v, const tile::Block& body) const;
  void collect(tile::ValueId v, const tile::Block& body, std::vector<const tile::Stmt*>& definitions) const;
  void starts_of(const tile::Seq& q, const std::string& step);
  void fetch(const Operand& o);
  void put(const Operand& o);
  void copy(const Operand& o);
  std::string staged_place(const Operand& o, const Registers& r) const;
  void multiply_simt(const tile::Mma& m, const Operand& a, const Operand& b, tile::AxisId depth, const std::string& sum);
  void multiply_atoms(const tile::Mma& m, const Operand& a, const Operand& b, tile::AxisId depth, const std::string& sum);

  // --- roles (roles.cpp) ---
  struct Part {                            // how a part of a channel lies in its slot
    const tile::Value* value;
    tile::AxisId outer, inner;
    int64_t size, rows, row_bytes, columns;   // bytes of an element; rows of row_bytes, in so many columns
    int64_t bytes() const { return rows * row_bytes * columns; }
  };
  struct Ring {
    std::vector<int64_t> at, bytes;   // of each part: the first slot's place in shared memory, and how far the next one's is
    int64_t depth, readers, copies, barriers, early = -1;
    int64_t putters = 0;              // > 0: instances that fill it for readers
    int64_t size = 0;                 // of the tiles of one of the copies
  };
  struct SharedTile { std::string address; Part part; tile::AxisId axis; };   // an operand of a product; its axis that is not summed
  const tile::Phase* phase_ = nullptr;     // with roles
  const tile::Role* role_ = nullptr;
  std::vector<Ring> rings_;                // by channel
  std::set<tile::AxisId> summed_;          // by products
  std::vector<TensorMap> maps_;
  std::map<tile::ValueId, SharedTile> tiles_;
  std::set<int> rounded_;                  // channels of operands of tf32, which the copy engine rounds
  void find_rounded();
  bool take(const tile::MapTile& m);
  std::set<tile::ValueId> in_slots_;       // vectors, which maps read where they are
  struct Flight {
    std::string sum, operand;
    int64_t registers;
  };   // of a product that was issued: the arrays that it works on
  std::vector<Flight> in_flight_;
  std::map<tile::ValueId, std::string> adds_;             // of what products add to: when there is something; "0", "1": never, always
  int last_got_ = -1;                      // channel
  std::string helpers_;                    // functions before the kernel
  std::string run_roles(const std::string& name, const std::string& params);
  void role(const tile::Role& r, int64_t first);
  void role_seq(const tile::Seq& q);
  void zero_sums(const tile::Seq& q);
  std::set<tile::ValueId> zeroed_;         // what loops are to carry, cleared before
  void role_each(const std::vector<tile::AxisId>& axes, const tile::Block& body, const std::string& first = "0", int64_t every = 1);
  int64_t steps_of(const std::vector<tile::AxisId>& axes) const;   // of an each
  static std::vector<const tile::Load*> loads_ahead(const tile::Block& body);
  void stand(const std::vector<tile::AxisId>& axes, const std::string& step);
  void lay_out_rings();
  void find_early(const tile::Role& r, int64_t& barriers);
  void ask_early(const tile::Each& e);
  void take_early(const tile::Load& l);
  const tile::Block* parts_ = nullptr;     // of a role: the steps over parts that are emitted
  void read_ahead(const std::vector<tile::AxisId>& axes, const tile::Block& body, const std::string& step);
  std::string begin_of(tile::AxisId a) const;   // where a loop over it starts
  std::string past(const std::vector<tile::AxisId>& axes) const;   // whether it has
  void issue(const tile::Mma& m);
  struct Walk {
    bool registers, along;
    int64_t step, every, jump;
  };   // of an operand along the sum: from one instruction to the next, and after so many
  Walk walk(const SharedTile& t, tile::AxisId k) const;
  std::string product_helper(const tile::Atom& atom, const tile::Mma& m, int64_t steps, const Walk& a, const Walk& b, const std::string& add);
  std::string settle_helper(int64_t sums, int64_t left);
  Part part(const tile::Value& v) const;
  int64_t box_rows(tile::BufferId b, const std::vector<tile::BoxIndex>& box, const Part& p) const;
  std::string tensor_map(tile::BufferId b, const std::vector<tile::BoxIndex>& box, const Part& p, bool rounded);
  std::string corner(const std::vector<tile::BoxIndex>& box, const Part& p, int64_t column) const;
  struct PartOfSum {
    tile::AxisId row, column;
    std::string first;   // of the sum's registers: four
    int64_t registers;
  };
  PartOfSum part_of_sum(tile::ValueId out, tile::ValueId sum) const;
  void copy_part(tile::ValueId out, const PartOfSum& p, const std::string& from);
  void in_role(const tile::Fetch& f);
  void in_role(const tile::Get& g);
  void in_role(const tile::Release& r);
  void in_role(const tile::Put& p);
  void in_role(const tile::Fence& f);
  void in_role(const tile::Send& s);
  void in_role(const tile::Await& a);
  void in_role(const tile::Slice& s);
  void in_role(const tile::Past& p);
  void in_role(const tile::Turn& t);
  void in_role(const tile::Share& s);
  void in_role(const tile::Deal& d);
  void in_role(const tile::Total& t);
  void in_role(const tile::Add& a);
  void put_part(const tile::Put& p);
  void send_parts(const char* how, int channel, const std::vector<tile::Store>& stores, const std::function<std::string(size_t part, int64_t offset)>& at);
  std::string slot(int channel, size_t part, const std::string& number, int64_t offset = 0) const;   // from the start of shared memory
  std::string own_slot(int channel, size_t part, int64_t offset = 0) const;
  std::set<int> counted_, once_;           // channels of which each step of the role's loop, or each claimed instance, gets or puts one: its number is theirs
  const tile::Seq* counted_in_ = nullptr;
  void find_counted(const tile::Role& r);
  std::vector<tile::AxisId> loops_;        // of seqs around
  int64_t claims_ = 0;                     // where the number of what is claimed lies, behind its barriers
  void open_claimed(const tile::Role& r);
  void claim();
  int turns_ = 0;                          // adds spelled so far, each with turns of its own
  bool has_step(const tile::Axis& axis) const;
  void role_loops(const std::vector<tile::AxisId>& axes, bool first_apart, const std::function<void()>& body);
  std::string bound(const Index& e, bool last) const;

  // --- tiles in roles that lie as products leave their sums (fragments.cpp) ---
  enum class Step { any,
                    first,
                    later } step_ = Step::any;   // of the loop at hand
  std::map<tile::ValueId, int> reads_, others_, puts_;       // in the role; others as what an `else` yields, puts among the reads
  std::set<tile::ValueId> fragments_, sums_;                 // such tiles; what products add to
  std::map<tile::ValueId, std::string> home_;                // of what is yielded: the carry's array
  int in_past_ = 0, walks_ = 0;   // around what is being spelled
  bool computed_ = false;                                    // since the last issue
  void count_reads(const tile::Block& block);
  bool is_fragment_type(const tile::Value& v) const;
  int64_t fragment_registers(const tile::Value& v) const;
  std::string fragment_at(tile::ValueId v, const Registers& r) const;
  bool fragment_map(const tile::MapTile& m);
  bool fragment_reduce(const tile::ReduceTile& r);
  void pack(const tile::MapTile& m);
  bool is_put_alone(const tile::MapTile& m) const;
  bool has_few_registers() const { return role_->registers && role_->registers < 200; }
  std::string beyond(const tile::MapTile& m) const;
  std::string fast(const tile::MapTile& m, size_t i, const std::vector<std::string>& names) const;
  bool is_deferred(const tile::Seq& q, size_t carry);
  int64_t deferred_bits_ = 0;
};

}  // namespace quern::cuda
