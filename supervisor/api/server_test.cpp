// The server with real gRPC clients on a real Unix socket; only the core is a stand-in.
#include "supervisor/api/server.h"

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>
#include <future>

#include "bulkhead/v1/bulkhead.grpc.pb.h"
#include "supervisor/api/fake_core.h"

namespace bulkhead::edge {
namespace {

using contract::v1::EdgeRequest;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::string scratch_directory() {
  std::string name = (std::filesystem::temp_directory_path() / "bulkhead-api-XXXXXX").string();
  return ::mkdtemp(name.data()) == nullptr ? "" : name;
}

UniqueFd listen_at(const std::string& path) {
  UniqueFd listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  EXPECT_EQ(::bind(listening.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(listening.get(), 16), 0);
  return listening;
}

class ServerTest : public testing::Test {
 protected:
  ServerTest() : directory_(scratch_directory()), socket_(directory_ + "/api.sock") {
    auto link = CoreLink::start(core_.connect(), [] {});
    if (link) link_ = std::move(*link);
    auto server = Server::start(*link_, listen_at(socket_), std::nullopt,
                                {.connections = 8, .connections_per_user = 8});
    if (server) server_ = std::move(*server);
    stub_ = new_client();
  }
  ~ServerTest() override {
    stub_.reset();
    server_.reset();
    link_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::unique_ptr<v1::Supervisor::Stub> new_client() const {
    grpc::ChannelArguments own;
    own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    return v1::Supervisor::NewStub(
        grpc::CreateCustomChannel("unix:" + socket_, grpc::InsecureChannelCredentials(), own));
  }
  static void give(grpc::ClientContext& context, milliseconds time) {
    context.set_deadline(std::chrono::system_clock::now() + time);
  }

  FakeCore core_;
  std::unique_ptr<CoreLink> link_;
  std::string directory_;
  std::string socket_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::Supervisor::Stub> stub_;
};

TEST_F(ServerTest, ForwardsAUnaryCall) {
  core_.on("HandOver", [&](const EdgeRequest& request) {
    v1::HandOverRequest query;
    query.ParseFromString(request.body());
    v1::HandOverResponse response;
    response.mutable_component()->set_name(query.component());
    response.set_blackout_us(120);
    core_.answer(request.id(), response);
  });
  grpc::ClientContext context;
  give(context, seconds(10));
  v1::HandOverRequest request;
  request.set_component("xenstore");
  v1::HandOverResponse response;
  const grpc::Status status = stub_->HandOver(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.component().name(), "xenstore");
  EXPECT_EQ(response.blackout_us(), 120);
}

TEST_F(ServerTest, ForwardsUnderTheMethodsOwnName) {
  for (const char* name : {"Restart", "ClearFaults", "SetQuota", "SetLogLevel", "WatchIncidents"}) {
    core_.on(name,
             [&](const EdgeRequest& request) { core_.refuse(request.id(), Code{9}, request.method()); });
  }
  v1::RestartResponse restarted;
  v1::ClearFaultsResponse cleared;
  v1::SetLogLevelResponse level;
  v1::SetQuotaResponse quota;
  grpc::ClientContext e;
  EXPECT_EQ(stub_->SetQuota(&e, {}, &quota).error_message(), "SetQuota");
  grpc::ClientContext a;
  grpc::ClientContext b;
  grpc::ClientContext c;
  grpc::ClientContext d;
  EXPECT_EQ(stub_->Restart(&a, {}, &restarted).error_message(), "Restart");
  EXPECT_EQ(stub_->ClearFaults(&b, {}, &cleared).error_message(), "ClearFaults");
  EXPECT_EQ(stub_->SetLogLevel(&c, {}, &level).error_message(), "SetLogLevel");
  auto incidents = stub_->WatchIncidents(&d, {});
  v1::Incident incident;
  EXPECT_FALSE(incidents->Read(&incident));
  EXPECT_EQ(incidents->Finish().error_message(), "WatchIncidents");
}

TEST_F(ServerTest, MapsEachOfTheCoresCodes) {
  for (int code = 1; code <= 16; ++code) {
    core_.on("Restart", [&, code](const EdgeRequest& request) {
      core_.refuse(request.id(), Code{static_cast<std::uint32_t>(code)}, "because " + std::to_string(code));
    });
    grpc::ClientContext context;
    give(context, seconds(10));
    v1::RestartResponse response;
    const grpc::Status status = stub_->Restart(&context, {}, &response);
    EXPECT_EQ(status.error_code(), code);
    EXPECT_EQ(status.error_message(), "because " + std::to_string(code));
  }
  core_.on("Restart", [&](const EdgeRequest& request) { core_.refuse(request.id(), Code{4711}, "odd"); });
  grpc::ClientContext context;
  v1::RestartResponse response;
  EXPECT_EQ(stub_->Restart(&context, {}, &response).error_code(), grpc::StatusCode::INTERNAL);
}

TEST_F(ServerTest, TellsTheCoreWhoCalls) {
  core_.on("Enable", [&](const EdgeRequest& request) { core_.answer(request.id(), v1::EnableResponse()); });
  grpc::ClientContext context;
  v1::EnableResponse response;
  ASSERT_TRUE(stub_->Enable(&context, {}, &response).ok());
  const auto request = core_.wait_for("Enable");
  ASSERT_TRUE(request);
  EXPECT_EQ(request->caller().unix().uid(), ::geteuid());
  EXPECT_EQ(request->caller().unix().gid(), ::getegid());
  EXPECT_EQ(request->caller().unix().pid(), ::getpid());
  EXPECT_EQ(request->caller().unix().groups_size(), ::getgroups(0, nullptr));
}

TEST_F(ServerTest, ADeadlineEndsTheCallAtTheCoreToo) {
  core_.on("Drain", [](const EdgeRequest&) {});
  grpc::ClientContext context;
  give(context, milliseconds(100));
  v1::DrainResponse response;
  EXPECT_EQ(stub_->Drain(&context, {}, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  const auto request = core_.wait_for("Drain");
  ASSERT_TRUE(request);
  EXPECT_TRUE(core_.wait_for_cancel(request->id()));
}

TEST_F(ServerTest, AStreamDeliversThenCancelReachesTheCore) {
  core_.on("WatchEvents", [&](const EdgeRequest& request) {
    for (std::uint64_t i = 1; i <= 3; ++i) {
      v1::Event event;
      event.set_sequence(i);
      core_.element(request.id(), event);
    }
  });
  grpc::ClientContext context;
  auto events = stub_->WatchEvents(&context, {});
  v1::Event event;
  for (std::uint64_t i = 1; i <= 3; ++i) {
    ASSERT_TRUE(events->Read(&event));
    EXPECT_EQ(event.sequence(), i);
  }
  context.TryCancel();
  EXPECT_FALSE(events->Read(&event));
  EXPECT_EQ(events->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(core_.wait_for_cancel(core_.wait_for("WatchEvents")->id()));
}

TEST_F(ServerTest, AStreamThatTheCoreEndsDeliversEverythingFirst) {
  core_.on("WatchEvents", [&](const EdgeRequest& request) {
    for (std::uint64_t i = 0; i < 200; ++i) core_.element(request.id(), v1::Event());
    core_.refuse(request.id(), Code::kUnavailable, "going down");
  });
  grpc::ClientContext context;
  auto events = stub_->WatchEvents(&context, {});
  v1::Event event;
  int got = 0;
  while (events->Read(&event)) ++got;
  EXPECT_EQ(got, 200);
  EXPECT_EQ(events->Finish().error_message(), "going down");
}

// The client reads nothing while the core sends far more than HTTP/2 windows and the edge's queue hold.
TEST_F(ServerTest, ASlowWatcherIsDroppedWithAClearStatus) {
  std::atomic<std::uint64_t> stream = 0;
  core_.on("WatchEvents", [&](const EdgeRequest& request) { stream = request.id(); });
  grpc::ClientContext context;
  give(context, seconds(30));
  auto events = stub_->WatchEvents(&context, {});
  ASSERT_TRUE(core_.wait_for("WatchEvents"));
  v1::Event event;
  event.set_text(std::string(16 * 1024, 'e'));
  std::thread sender([&] {
    for (int i = 0; i < 3000; ++i) core_.element(stream, event);
  });
  EXPECT_TRUE(core_.wait_for_cancel(core_.wait_for("WatchEvents")->id()));
  sender.join();
  int got = 0;
  while (events->Read(&event)) ++got;
  EXPECT_LT(got, 3000);
  const grpc::Status status = events->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("too slow"), std::string::npos);
}

TEST_F(ServerTest, BoundsTheCallsOfAConnection) {
  core_.on("WatchEvents", [&](const EdgeRequest& request) { core_.element(request.id(), v1::Event()); });
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::Event>>> streams;
  v1::Event event;
  for (int i = 0; i < 64; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(stub_->WatchEvents(contexts.back().get(), {}));
    ASSERT_TRUE(streams.back()->Read(&event));
  }
  grpc::ClientContext over;
  v1::GetVersionResponse version;
  EXPECT_EQ(stub_->GetVersion(&over, {}, &version).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  auto other = new_client();
  grpc::ClientContext elsewhere;
  EXPECT_TRUE(other->GetVersion(&elsewhere, {}, &version).ok());
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& stream : streams) stream->Finish();
}

TEST_F(ServerTest, BoundsTheConnections) {
  std::vector<std::unique_ptr<v1::Supervisor::Stub>> clients;
  v1::GetVersionResponse version;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(new_client());
    grpc::ClientContext context;
    ASSERT_TRUE(clients.back()->GetVersion(&context, {}, &version).ok());
  }
  grpc::ClientContext context;
  give(context, seconds(10));
  EXPECT_EQ(new_client()->GetVersion(&context, {}, &version).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GE(server_->refused_connections(), 1U);
}

TEST_F(ServerTest, ACallDuringTheCoresAbsenceIsAnsweredWhenItIsBack) {
  core_.pause();
  std::promise<bool> answered;
  std::thread client([&] {
    grpc::ClientContext context;
    give(context, seconds(10));
    v1::ListComponentsResponse list;
    answered.set_value(stub_->ListComponents(&context, {}, &list).ok());
  });
  auto future = answered.get_future();
  EXPECT_EQ(future.wait_for(milliseconds(50)), std::future_status::timeout);
  core_.resume();
  EXPECT_TRUE(future.get());
  client.join();
}

TEST_F(ServerTest, CallsEndWhenTheServerStops) {
  core_.on("WatchEvents", [&](const EdgeRequest& request) { core_.element(request.id(), v1::Event()); });
  grpc::ClientContext context;
  auto events = stub_->WatchEvents(&context, {});
  v1::Event event;
  ASSERT_TRUE(events->Read(&event));
  server_->stop(milliseconds(10));
  EXPECT_FALSE(events->Read(&event));
  EXPECT_FALSE(events->Finish().ok());
}

TEST_F(ServerTest, OversizedRequestsAreRefused) {
  grpc::ClientContext context;
  v1::HandOverRequest request;
  request.set_component(std::string(100 * 1024, 'x'));
  v1::HandOverResponse response;
  EXPECT_EQ(stub_->HandOver(&context, request, &response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(TcpTest, UnreadableTlsFilesAreOneClearLine) {
  FakeCore core;
  auto link = CoreLink::start(core.connect(), [] {});
  ASSERT_TRUE(link);
  const std::string directory = scratch_directory();
  const auto server = Server::start(**link, listen_at(directory + "/api.sock"),
                                    TcpOptions{"127.0.0.1:0", directory + "/none.pem", "k", "c"});
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().message(),
            "cannot open the certificate " + directory + "/none.pem: No such file or directory");
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace bulkhead::edge
