#include "tests/fault/findings.h"

#include <algorithm>

namespace bulkhead::campaign {

Findings::Findings(v1::Supervisor::Stub& api) : api_(api), thread_([this] { watch(); }) {}

Findings::~Findings() {
  {
    const std::scoped_lock lock(mutex_);
    enough_ = true;
    if (context_) context_->TryCancel();
  }
  thread_.join();
}

// The stream ends with a core that dies; what its successor says is heard from when it answers.
void Findings::watch() {
  for (;;) {
    grpc::ClientContext* context = nullptr;
    {
      const std::scoped_lock lock(mutex_);
      if (enough_) return;
      context_ = std::make_unique<grpc::ClientContext>();
      context_->set_wait_for_ready(true);
      context = context_.get();
    }
    v1::WatchEventsRequest request;
    request.set_component("xenstore");
    const auto stream = api_.WatchEvents(context, request);
    v1::Event event;
    while (stream->Read(&event)) {
      const std::scoped_lock lock(mutex_);
      seen_ = true;
      if (event.kind() == v1::Event::KIND_FINDING) findings_.push_back(event.text());
    }
    (void)stream->Finish();
  }
}

bool Findings::seen() const {
  const std::scoped_lock lock(mutex_);
  return seen_;
}

bool Findings::any_contains(const std::string& text) const {
  const std::scoped_lock lock(mutex_);
  return std::ranges::any_of(findings_, [&](const auto& f) { return f.find(text) != std::string::npos; });
}

std::string Findings::all() const {
  const std::scoped_lock lock(mutex_);
  std::string text;
  for (const std::string& finding : findings_) text += finding + "\n";
  return text;
}

}  // namespace bulkhead::campaign
