/*
 * Steering: who gets a frame that arrives at a port of the gateway. The kernel gets what it must (ARP, neighbour
 * discovery, declared services of the gateway's own addresses); the worker's AF_XDP socket gets everything else;
 * where there is no socket the frame is dropped. So the program lets nothing cross when no gateway runs, and it
 * stays attached when its owner dies.
 *
 * To the kernel (XDP_PASS), and nothing else:
 *   1. ARP for IPv4 over Ethernet, request or reply, complete. Whose address it asks for is the kernel's business.
 *   2. ICMPv6 types 133 to 137, code 0, hop limit 255 (so it was sent on this link, RFC 4861 section 6.1), to one of
 *      the gateway's own addresses or to link-local multicast (ff02::/16).
 *   3. TCP, UDP and ICMP or ICMPv6 echo requests to one of the gateway's own addresses, in a unicast frame, if the
 *      service is declared for this port and the source lies behind this port (or is IPv6 link-local): the kernel
 *      answers where the source lives, so it would carry a forged packet's contents past the policy. Not when the
 *      source is an own address, multicast, loopback, unspecified, reserved or an IPv4-mapped IPv6 address: no host
 *      on the wire has such a source, and the worker drops it with its reason.
 * In 2 and 3 the packet is never a fragment and has neither IPv4 options nor IPv6 extension headers: what lies
 * behind those is not looked for here. A frame with a VLAN tag never goes to the kernel. Whether an IP packet is as
 * long as it says, and its checksums, are left to the kernel, which checks both.
 *
 * Not passed, on purpose: packets that answer what the gateway's own kernel sent (its DNS look-ups, an SSH session
 * that it opened, ICMP errors for its own packets). A gateway that must speak for itself does so over an interface
 * that is not a port. MLD is not passed either (it carries a hop-by-hop header).
 *
 * A VLAN tag that the network card strips into its descriptor is invisible here. Turn that off for every port
 * (`ethtool -K DEV rxvlan off`), or tagged frames look untagged.
 *
 * Maps. The object is loaded once per port, so all of them belong to one port; none is pinned.
 *   own_v4          hash   IPv4 address (network order) -> 1
 *   own_v6          hash   IPv6 address (network order) -> 1
 *   sources_v4      trie   IPv4 network -> 1 if it lies behind this port, 0 if elsewhere; the longest match decides
 *   sources_v6      trie   IPv6 network, likewise
 *   local_services  hash   protocol, 0, port (network order; the ICMP type for echo requests) -> 1
 *   sockets         xskmap receive queue -> AF_XDP socket
 *   counters        per-CPU array, see OUTCOME_* in steering.h -> frames
 * Every frame is counted under exactly one outcome, so that received = to_host + redirected + no_worker by
 * construction. A redirected frame can still be lost to a full ring or a missing fill frame: the socket's own
 * statistics count those (XDP_STATISTICS).
 *
 * The file needs no header but its own, so that it compiles to the same bytes everywhere: build.sh. No pointer is
 * subtracted from another, and packet offsets are constants: that loads with CAP_BPF and CAP_NET_ADMIN, where more
 * would need CAP_PERFMON.
 */
#include "steering.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HOST16(x) __builtin_bswap16(x)
#else
#define HOST16(x) (x)
#endif

/* From the kernel's uapi, linux/bpf.h. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_XSKMAP = 17,
};
/* A trie must have it: memory is taken entry by entry. */
enum { BPF_F_NO_PREALLOC = 1 };
enum { XDP_DROP = 1, XDP_PASS = 2, XDP_REDIRECT = 4 };

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

/* The map definition that aya reads from the section "maps". */
struct map {
	u32 type;
	u32 key_bytes;
	u32 value_bytes;
	u32 max_entries;
	u32 flags;
};

struct map SECTION("maps") own_v4 = { BPF_MAP_TYPE_HASH, 4, 1, 2 * OWN_ADDRESSES_MAX, 0 };
struct map SECTION("maps") own_v6 = { BPF_MAP_TYPE_HASH, 16, 1, 2 * OWN_ADDRESSES_MAX, 0 };
struct map SECTION("maps") sources_v4 = {
	BPF_MAP_TYPE_LPM_TRIE, 4 + 4, 1, 2 * SOURCES_MAX, BPF_F_NO_PREALLOC,
};
struct map SECTION("maps") sources_v6 = {
	BPF_MAP_TYPE_LPM_TRIE, 4 + 16, 1, 2 * SOURCES_MAX, BPF_F_NO_PREALLOC,
};
struct map SECTION("maps") local_services = {
	BPF_MAP_TYPE_HASH, LOCAL_SERVICE_KEY_BYTES, 1, 2 * LOCAL_SERVICES_MAX, 0,
};
struct map SECTION("maps") sockets = { BPF_MAP_TYPE_XSKMAP, 4, 4, QUEUES_DEFAULT, 0 };
struct map SECTION("maps") counters = { BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, OUTCOMES, 0 };

struct ethernet {
	u8 destination[6];
	u8 source[6];
	u16 type;
};

/* RFC 826, for IPv4 over Ethernet. */
struct arp {
	u16 hardware;
	u16 protocol;
	u8 hardware_bytes;
	u8 protocol_bytes;
	u16 operation;
	u8 addresses[20];
};

/* RFC 791, section 3.1. */
struct ipv4 {
	u8 version_and_words;
	u8 service;
	u16 total_bytes;
	u16 identification;
	u16 flags_and_offset;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u8 source[4];
	u8 destination[4];
};

/* RFC 8200, section 3. */
struct ipv6 {
	u8 version;
	u8 class_and_label[3];
	u16 payload_bytes;
	u8 next_header;
	u8 hop_limit;
	u8 source[16];
	u8 destination[16];
};

/* The first 8 bytes of a transport header: TCP and UDP begin with the ports, ICMP with type and code. */
struct transport {
	union {
		struct {
			u16 source_port;
			u16 destination_port;
		};
		struct {
			u8 type;
			u8 code;
			u16 checksum;
		};
	};
	u32 rest;
};

struct service {
	u8 protocol;
	u8 zero;
	u8 port[2];
};

/* Keys of sources_v4 and sources_v6. */
struct network_v4 {
	u32 prefix_bits;
	u8 address[4];
};

struct network_v6 {
	u32 prefix_bits;
	u8 address[16];
};

enum {
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_ARP = 0x0806,
	ETHERTYPE_IPV6 = 0x86dd,
	IPV4_DONT_FRAGMENT = 0x4000,
	TCP_HEADER_BYTES = 20,
	/* UDP, ICMP and ICMPv6 alike. */
	SHORT_HEADER_BYTES = 8,
};

INLINE int arp_for_kernel(const struct arp *arp, const void *end)
{
	if ((const void *)(arp + 1) > end)
		return 0;
	u16 operation = HOST16(arp->operation);
	return HOST16(arp->hardware) == 1 && HOST16(arp->protocol) == ETHERTYPE_IPV4 && arp->hardware_bytes == 6 &&
	       arp->protocol_bytes == 4 && (operation == 1 || operation == 2);
}

/* Whether the transport header names a service declared for this port. `bytes` are what the IP header leaves it. */
INLINE int declared(u8 protocol, const struct transport *transport, u16 bytes, const void *end)
{
	if ((const void *)(transport + 1) > end || bytes < SHORT_HEADER_BYTES)
		return 0;
	struct service service = { .protocol = protocol };
	switch (protocol) {
	case PROTOCOL_TCP:
		if (bytes < TCP_HEADER_BYTES)
			return 0;
		/* fall through */
	case PROTOCOL_UDP: {
		u16 port = HOST16(transport->destination_port);
		service.port[0] = port >> 8;
		service.port[1] = port;
		break;
	}
	case PROTOCOL_ICMP:
	case PROTOCOL_ICMPV6:
		if (transport->type != (protocol == PROTOCOL_ICMP ? ICMP_ECHO_REQUEST : ICMPV6_ECHO_REQUEST) ||
		    transport->code != 0)
			return 0;
		service.port[1] = transport->type;
		break;
	default:
		return 0;
	}
	return bpf_map_lookup_elem(&local_services, &service) != 0;
}

/* RFC 6890: "this network", loopback, and from 224 on multicast, reserved and broadcast. */
INLINE int ipv4_source_impossible(const u8 *source)
{
	return source[0] == 0 || source[0] == 127 || source[0] >= 224;
}

/* RFC 4291: multicast; and ::/80 with unspecified, loopback, IPv4-compatible and IPv4-mapped addresses. */
INLINE int ipv6_source_impossible(const u8 *source)
{
	if (source[0] == 0xff)
		return 1;
	u8 any = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		any |= source[i];
	return any == 0;
}

/* Whether the longest of all segments' networks that holds the source is one behind this port. */
INLINE int ipv4_source_is_here(const u8 *source)
{
	struct network_v4 host = { .prefix_bits = 32 };
	__builtin_memcpy(host.address, source, sizeof host.address);
	const u8 *here = bpf_map_lookup_elem(&sources_v4, &host);
	return here && *here;
}

/* Likewise; and fe80::/10, which no segment holds: it is answered on this link alone. */
INLINE int ipv6_source_is_here(const u8 *source)
{
	if (source[0] == 0xfe && (source[1] & 0xc0) == 0x80)
		return 1;
	struct network_v6 host = { .prefix_bits = 128 };
	__builtin_memcpy(host.address, source, sizeof host.address);
	const u8 *here = bpf_map_lookup_elem(&sources_v6, &host);
	return here && *here;
}

INLINE int ipv4_for_kernel(const struct ethernet *ethernet, const void *end)
{
	const struct ipv4 *ip = (const void *)(ethernet + 1);
	if ((const void *)(ip + 1) > end || ip->version_and_words != 0x45)
		return 0;
	if (HOST16(ip->flags_and_offset) & ~IPV4_DONT_FRAGMENT)
		return 0;
	u16 bytes = HOST16(ip->total_bytes);
	if (bytes < sizeof *ip || (ethernet->destination[0] & 1) || !bpf_map_lookup_elem(&own_v4, ip->destination))
		return 0;
	if (ipv4_source_impossible(ip->source) || bpf_map_lookup_elem(&own_v4, ip->source))
		return 0;
	/* ICMPv6 in IPv4 means nothing. */
	if (ip->protocol == PROTOCOL_ICMPV6)
		return 0;
	return declared(ip->protocol, (const void *)(ip + 1), bytes - sizeof *ip, end) &&
	       ipv4_source_is_here(ip->source);
}

INLINE int neighbour_discovery(const struct ipv6 *ip, const struct transport *icmp, u16 bytes, const void *end)
{
	return (const void *)(icmp + 1) <= end && bytes >= SHORT_HEADER_BYTES && ip->next_header == PROTOCOL_ICMPV6 &&
	       ip->hop_limit == 255 && icmp->type >= ND_FIRST && icmp->type <= ND_LAST && icmp->code == 0;
}

INLINE int ipv6_for_kernel(const struct ethernet *ethernet, const void *end)
{
	const struct ipv6 *ip = (const void *)(ethernet + 1);
	if ((const void *)(ip + 1) > end || ip->version >> 4 != 6)
		return 0;
	const struct transport *transport = (const void *)(ip + 1);
	u16 bytes = HOST16(ip->payload_bytes);
	int discovery = neighbour_discovery(ip, transport, bytes, end);
	if (ip->destination[0] == 0xff)
		return discovery && ip->destination[1] == 0x02;
	if (!bpf_map_lookup_elem(&own_v6, ip->destination))
		return 0;
	if (discovery)
		return 1;
	if ((ethernet->destination[0] & 1) || ipv6_source_impossible(ip->source) ||
	    bpf_map_lookup_elem(&own_v6, ip->source))
		return 0;
	/* ICMP in IPv6 means nothing. */
	if (ip->next_header == PROTOCOL_ICMP)
		return 0;
	return declared(ip->next_header, transport, bytes, end) && ipv6_source_is_here(ip->source);
}

INLINE int for_kernel(const struct ethernet *ethernet, const void *end)
{
	if ((const void *)(ethernet + 1) > end)
		return 0;
	switch (HOST16(ethernet->type)) {
	case ETHERTYPE_ARP:
		return arp_for_kernel((const void *)(ethernet + 1), end);
	case ETHERTYPE_IPV4:
		return ipv4_for_kernel(ethernet, end);
	case ETHERTYPE_IPV6:
		return ipv6_for_kernel(ethernet, end);
	default:
		return 0;
	}
}

/* The frame's fate is decided, whatever happens to the count: the look-up of a constant index cannot fail. */
INLINE int finish(u32 outcome, int action)
{
	u64 *frames = bpf_map_lookup_elem(&counters, &outcome);
	if (frames)
		*frames += 1;
	return action;
}

SECTION("xdp") int bulkhead_steer(struct xdp_md *context)
{
	const void *data = (const void *)(long)context->data;
	const void *end = (const void *)(long)context->data_end;
	if (for_kernel(data, end))
		return finish(OUTCOME_TO_HOST, XDP_PASS);
	/* The flags' low bits are the answer where the queue has no socket. */
	if (bpf_redirect_map(&sockets, context->rx_queue_index, XDP_DROP) == XDP_REDIRECT)
		return finish(OUTCOME_REDIRECTED, XDP_REDIRECT);
	return finish(OUTCOME_NO_WORKER, XDP_DROP);
}

char SECTION("license") license_text[] = "MIT OR Apache-2.0";
