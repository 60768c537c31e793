package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Name of the table that is replaced.
const name = "mesh-policies"

// world is what a table is made from.
type world struct {
	pods       []*corev1.Pod
	namespaces map[string]labels.Set
	policies   []*networkingv1.NetworkPolicy
}

// way is a direction, as seen from the pod that a policy selects.
type way struct {
	kind networkingv1.PolicyType
	// own and other are the fields of a packet that hold the pod's address and its peer's.
	own, other string
}

var ways = []way{
	{networkingv1.PolicyTypeEgress, "saddr", "daddr"},
	{networkingv1.PolicyTypeIngress, "daddr", "saddr"},
}

// allowance is one rule of a policy, whichever its direction.
type allowance struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

// table writes the whole ruleset. A pod that a policy selects has a chain per direction, which returns
// for what is allowed and drops the rest; a packet must pass its sender's and its receiver's.
func (w world) table() string {
	pods := slices.DeleteFunc(slices.Clone(w.pods), func(pod *corev1.Pod) bool { return !networked(pod) })
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return strings.Compare(a.Status.PodIP, b.Status.PodIP) })
	w.pods = pods
	var chains, forward strings.Builder
	for _, way := range ways {
		var jumps []string
		for _, pod := range pods {
			rules, isolated := w.rules(pod, way)
			if !isolated {
				continue
			}
			ip := pod.Status.PodIP
			chain := fmt.Sprintf("%s-%s", way.own, ip)
			// A pod may always talk to itself.
			fmt.Fprintf(&chains, "  chain %s {\n    ip %s %s return\n%s    drop\n  }\n", chain, way.other, ip, rules)
			jumps = append(jumps, fmt.Sprintf("%s : jump %s", ip, chain))
		}
		if len(jumps) > 0 {
			fmt.Fprintf(&forward, "    ip %s vmap { %s }\n", way.own, strings.Join(jumps, ", "))
		}
	}
	return fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\ntable inet %[1]s {\n%[2]s"+
		"  chain forward {\n    type filter hook forward priority 5; policy accept;\n    ct state established,related accept\n%[3]s  }\n}\n",
		name, chains.String(), forward.String())
}

// networked tells whether a pod has an address of its own. Policies say nothing about the node's.
func networked(pod *corev1.Pod) bool {
	done := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	return pod.Status.PodIP != "" && !pod.Spec.HostNetwork && !done
}

// rules gives what a pod is allowed, and whether any policy isolates it at all.
func (w world) rules(pod *corev1.Pod, way way) (string, bool) {
	var text strings.Builder
	isolated := false
	for _, policy := range w.policies {
		if policy.Namespace != pod.Namespace || !acts(policy, way.kind) || !selects(&policy.Spec.PodSelector, pod.Labels) {
			continue
		}
		isolated = true
		for _, allowed := range allowances(policy, way.kind) {
			for _, line := range w.lines(policy.Namespace, pod, way, allowed) {
				fmt.Fprintf(&text, "    %s return\n", line)
			}
		}
	}
	return text.String(), isolated
}

// acts tells whether a policy is about a direction; one that does not say is about ingress, and about
// egress if it has such rules.
func acts(policy *networkingv1.NetworkPolicy, kind networkingv1.PolicyType) bool {
	if len(policy.Spec.PolicyTypes) > 0 {
		return slices.Contains(policy.Spec.PolicyTypes, kind)
	}
	return kind == networkingv1.PolicyTypeIngress || len(policy.Spec.Egress) > 0
}

func allowances(policy *networkingv1.NetworkPolicy, kind networkingv1.PolicyType) []allowance {
	var all []allowance
	if kind == networkingv1.PolicyTypeIngress {
		for _, rule := range policy.Spec.Ingress {
			all = append(all, allowance{rule.From, rule.Ports})
		}
		return all
	}
	for _, rule := range policy.Spec.Egress {
		all = append(all, allowance{rule.To, rule.Ports})
	}
	return all
}

// lines gives the matches of one rule: who, and on which ports. None of either means all.
func (w world) lines(namespace string, pod *corev1.Pod, way way, allowed allowance) []string {
	everyone := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}}
	peers := allowed.peers
	if len(peers) == 0 {
		peers = []networkingv1.NetworkPolicyPeer{everyone}
	}
	ports := allowed.ports
	if len(ports) == 0 {
		return w.who(namespace, way, peers, "")
	}
	var lines []string
	for _, port := range ports {
		protocol := "tcp"
		if port.Protocol != nil {
			protocol = strings.ToLower(string(*port.Protocol))
		}
		switch {
		case port.Port == nil:
			lines = append(lines, w.who(namespace, way, peers, " meta l4proto "+protocol)...)
		case port.Port.Type == intstr.Int && port.EndPort != nil:
			match := fmt.Sprintf(" %s dport %d-%d", protocol, port.Port.IntVal, *port.EndPort)
			lines = append(lines, w.who(namespace, way, peers, match)...)
		case port.Port.Type == intstr.Int:
			lines = append(lines, w.who(namespace, way, peers, fmt.Sprintf(" %s dport %d", protocol, port.Port.IntVal))...)
		case way.kind == networkingv1.PolicyTypeIngress:
			for _, number := range numbers(pod, port.Port.StrVal, protocol) {
				lines = append(lines, w.who(namespace, way, peers, fmt.Sprintf(" %s dport %d", protocol, number))...)
			}
		default:
			// Whose port has that name is up to each receiver.
			for _, receiver := range w.pods {
				if slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool { return w.matches(namespace, peer, receiver) }) {
					for _, number := range numbers(receiver, port.Port.StrVal, protocol) {
						lines = append(lines, fmt.Sprintf("ip daddr %s %s dport %d", receiver.Status.PodIP, protocol, number))
					}
				}
			}
		}
	}
	return lines
}

// who gives a match per peer that is a block, and one for all peers that are pods.
func (w world) who(namespace string, way way, peers []networkingv1.NetworkPolicyPeer, ports string) []string {
	var lines, addresses []string
	for _, peer := range peers {
		if peer.IPBlock == nil {
			for _, pod := range w.pods {
				if w.matches(namespace, peer, pod) && !slices.Contains(addresses, pod.Status.PodIP) {
					addresses = append(addresses, pod.Status.PodIP)
				}
			}
			continue
		}
		block, err := netip.ParsePrefix(peer.IPBlock.CIDR)
		if err != nil || !block.Addr().Is4() {
			continue // There is no IPv6 in a test cluster.
		}
		line := fmt.Sprintf("ip %s %s", way.other, block.Masked())
		for _, except := range peer.IPBlock.Except {
			line += fmt.Sprintf(" ip %s != %s", way.other, except)
		}
		lines = append(lines, line+ports)
	}
	if len(addresses) > 0 {
		lines = append(lines, fmt.Sprintf("ip %s { %s }%s", way.other, strings.Join(addresses, ", "), ports))
	}
	return lines
}

// matches tells whether a peer of a policy in a namespace includes a pod.
func (w world) matches(namespace string, peer networkingv1.NetworkPolicyPeer, pod *corev1.Pod) bool {
	if peer.IPBlock != nil {
		address, err := netip.ParseAddr(pod.Status.PodIP)
		within := func(cidr string) bool {
			block, wrong := netip.ParsePrefix(cidr)
			return wrong == nil && block.Contains(address)
		}
		return err == nil && within(peer.IPBlock.CIDR) && !slices.ContainsFunc(peer.IPBlock.Except, within)
	}
	if peer.NamespaceSelector == nil {
		return pod.Namespace == namespace && selects(peer.PodSelector, pod.Labels)
	}
	if !selects(peer.NamespaceSelector, w.namespaces[pod.Namespace]) {
		return false
	}
	return peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels)
}

// selects tells whether a selector matches; one that cannot be read matches nothing.
func selects(selector *metav1.LabelSelector, set map[string]string) bool {
	read, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && read.Matches(labels.Set(set))
}

// numbers gives the ports of a pod that have a name, those of native sidecars too.
func numbers(pod *corev1.Pod, name, protocol string) []int32 {
	containers := slices.Clone(pod.Spec.Containers)
	for _, container := range pod.Spec.InitContainers {
		if container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, container)
		}
	}
	var found []int32
	for _, container := range containers {
		for _, port := range container.Ports {
			if port.Name == name && strings.EqualFold(string(port.Protocol), protocol) {
				found = append(found, port.ContainerPort)
			}
		}
	}
	return found
}
