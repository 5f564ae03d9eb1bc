// The programs of one native component, as open files: which one its processes are started from, which one an
// upgrade is about to bring, which older one can be returned to. What is on disk under the same name by now
// does not matter.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bulkhead/manifest/v1/manifest.pb.h"
#include "bulkhead/v1/bulkhead.pb.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "supervisor/fd_store.h"

namespace bulkhead::supervisor {

struct Program {
  std::uint64_t number = 0;  // part of the name it is parked under; never reused while custody lasts
  std::string path;          // where it was found
  std::string id;            // of its content: "CRC32C-SIZE"
  std::string version;       // what its processes call themselves; empty: none has said so yet
  bool is_script = false;
  UniqueFd file;
};

// Opens and reads it once. kNotFound: no such file; kInvalid: not an executable file.
Result<Program> open_program(const std::string& path);
// The program that a process runs, even if it has been removed from the disk; `path`: what it must be called.
Result<Program> program_of_process(pid_t pid, const std::string& path);
// For a program that a caller of the API names: kRefused unless it belongs to root or to the core's own user
// and nobody else may write to it.
Status check_trusted(const Program& program);

// Each is parked under "p/COMPONENT/NUMBER"; the manifest says what it is to the component. Parked before it
// is in the manifest and in the manifest no more before it is removed: one that no manifest names is
// nobody's.
class Programs {
 public:
  // `store` outlives this.
  Programs(std::string component, const FdStore& store) : component_(std::move(component)), store_(&store) {}

  const Program* in_use() const { return find(in_use_); }
  const Program* kept() const { return find(kept_); }
  const Program* candidate() const { return find(candidate_); }
  const Program* find(std::uint64_t number) const;
  bool returning() const { return candidate_ != 0 && candidate_ == kept_; }
  // Until when the program in use may still be given up for the kept one (monotonic); 0: it may not.
  std::int64_t probation_ends_ns() const { return probation_ends_ns_; }
  bool on_probation() const { return probation_ends_ns_ != 0 && kept_ != 0; }
  void learn_version(std::uint64_t number, const std::string& version);

  // The first one. Parks it.
  Status begin(Program program);
  // It may become the one in use. Parks it; whoever calls writes the manifest.
  Status propose(Program program);
  void propose_kept() { candidate_ = kept_; }
  // A process of the candidate owns the component: it is in use, the former one is kept, on probation until
  // `probation_ends_ns` (0: none, also for one that was returned to).
  void commit(std::int64_t probation_ends_ns);
  // The candidate did not get that far.
  void abandon();
  // The one in use is given up for the kept one.
  void go_back();
  // A process of the kept one owns the component through no fault of the one in use, which is tried again.
  void try_again();
  void end_probation() { probation_ends_ns_ = 0; }
  bool given_up() const { return !given_up_.empty(); }
  // Those given up, from the store. After the manifest has been written without them.
  void sweep();
  // Nothing stays in the store.
  void release();

  // What a former core left: `parked` by number; what belongs to nobody is left in it.
  void adopt(const manifest::v1::Component& record, std::map<std::uint64_t, UniqueFd>& parked);
  void record(manifest::v1::Component& into) const;

 private:
  Status park(const Program& program) const;
  void give_up(std::uint64_t number);

  std::string component_;
  const FdStore* store_;
  std::map<std::uint64_t, Program> programs_;
  std::uint64_t in_use_ = 0, kept_ = 0, candidate_ = 0;
  std::int64_t probation_ends_ns_ = 0;
  std::vector<std::uint64_t> given_up_;
};

// "p/COMPONENT/NUMBER".
std::string program_name(const std::string& component, std::uint64_t number);
v1::Program public_program(const Program& program);
// "/usr/libexec/bulkhead/thing (1.2)", for messages to people.
std::string told(const Program& program);

}  // namespace bulkhead::supervisor
