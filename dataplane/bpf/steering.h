/*
 * What the steering program and its loader (src/steering/) must agree on. A test in the loader reads this file, so
 * keep every line a plain "#define NAME number".
 */

/* Indexes of the counters map: what became of a frame. Each frame adds one to exactly one of them. */
#define OUTCOME_TO_HOST 0
#define OUTCOME_REDIRECTED 1
#define OUTCOME_NO_WORKER 2
#define OUTCOMES 3

/* Addresses in own_v4 and in own_v6, each; services in local_services. The maps have twice as many entries, because
 * the loader adds what is new before it removes what is old. */
#define OWN_ADDRESSES_MAX 4096
#define LOCAL_SERVICES_MAX 4096
/* Networks in sources_v4 and in sources_v6, each; twice as many entries for the same reason. As many as a policy may
 * have. */
#define SOURCES_MAX 131072
/* Entries of sockets, unless the loader says otherwise (it does: the number of queues). */
#define QUEUES_DEFAULT 64

/* Bytes of a key of local_services: protocol, 0, port (most significant byte first). */
#define LOCAL_SERVICE_KEY_BYTES 4

/* IP protocol numbers (IANA "Assigned Internet Protocol Numbers"). */
#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_ICMPV6 58

/* ICMP types (RFC 792; RFC 4443, section 4.1), in the place of the port in a key of local_services. */
#define ICMP_ECHO_REQUEST 8
#define ICMPV6_ECHO_REQUEST 128

/* The ICMPv6 types of neighbour discovery: router solicitation to redirect (RFC 4861, section 4). */
#define ND_FIRST 133
#define ND_LAST 137
