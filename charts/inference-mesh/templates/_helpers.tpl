{{/* What cannot be meant together. */}}
{{- define "mesh.check" -}}
{{- if eq .Values.scope "namespaced" }}
{{- if .Values.gateway.credentialNamespaces }}
{{- fail "gateway.credentialNamespaces: an installation of scope namespaced reads Secrets of its own namespace only; leave it empty, or use scope cluster" }}
{{- end }}
{{- if .Values.gateway.tokenReview.enabled }}
{{- fail "gateway.tokenReview.enabled: a TokenReview belongs to the cluster, and an installation of scope namespaced has no right there; leave it off, or use scope cluster" }}
{{- end }}
{{- if .Values.priorityClass.create }}
{{- fail "priorityClass.create: a PriorityClass belongs to the cluster, and an installation of scope namespaced makes nothing there; name one that exists by operator.priorityClassName and gateway.priorityClassName" }}
{{- end }}
{{- end }}
{{- with .Values.ledger }}
{{- if and .enabled (eq .persistence.size "") (eq .persistence.existingClaim "") }}
{{- fail "ledger.persistence: say a size for its volume, or name a claim that exists" }}
{{- end }}
{{- end }}
{{- with .Values.gateway.autoscaling }}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) }}
{{- fail (printf "gateway.autoscaling: maxReplicas %v is less than minReplicas %v" .maxReplicas .minReplicas) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The least number of gateways that there are; of a number that somebody else decides, one that needs a budget. */}}
{{- define "mesh.leastGateways" -}}
{{- with .Values.gateway -}}
{{- if .autoscaling.enabled -}}
{{ .autoscaling.minReplicas }}
{{- else -}}
{{ .replicas | default 2 }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Labels of everything; call with (dict "root" $ "component" "gateway"). */}}
{{- define "mesh.labels" -}}
{{ include "mesh.selector" . }}
app.kubernetes.io/part-of: inference-mesh
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What selects pods; never changes. */}}
{{- define "mesh.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Reference of an image; call with (dict "root" $ "name" "gateway" "values" .Values.gateway). */}}
{{- define "mesh.image" -}}
{{- $repository := .values.repository | default (printf "%s/%s" .root.Values.image.registry .name) -}}
{{- if .values.digest -}}
{{ $repository }}@{{ .values.digest }}
{{- else -}}
{{ $repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Pod fields of every component; call with (dict "root" $ "values" .Values.gateway "component" "gateway"). */}}
{{- define "mesh.pod" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
enableServiceLinks: false
{{- if not .values.hostUsers }}
hostUsers: false
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  {{- if eq .component "ledger" }}
  # Its volume is its own, whoever made it.
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName | default (include "mesh.priority" .root) }}
priorityClassName: {{ . }}
{{- end }}
{{- if ne .component "ledger" }}
topologySpreadConstraints:
{{- with .values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    # Those of one rollout among themselves.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "mesh.selector" . | nindent 8 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where gateways reach the ledger. */}}
{{- define "mesh.ledger" -}}
mesh-ledger.{{ .Release.Namespace }}.svc:8443
{{- end }}

{{/* Name of the class that the release makes, if it makes one. */}}
{{- define "mesh.priority" -}}
{{- if .Values.priorityClass.create }}inference-mesh{{ end -}}
{{- end }}

{{/* What no container may do. */}}
{{- define "mesh.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* How far a role reaches: the cluster, or the namespace of the release. Call each of the three with
     (dict "root" $ "name" "mesh-gateway"). */}}
{{- define "mesh.wideRole" }}
{{- if eq .root.Values.scope "cluster" }}
kind: ClusterRole
metadata:
  name: {{ .name }}
{{- else }}
kind: Role
metadata:
  name: {{ .name }}-objects
  namespace: {{ .root.Release.Namespace }}
{{- end }}
{{- end }}

{{- define "mesh.wideRoleBinding" }}
{{- if eq .root.Values.scope "cluster" }}
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
{{- else }}
kind: RoleBinding
metadata:
  name: {{ .name }}-objects
  namespace: {{ .root.Release.Namespace }}
{{- end }}
{{- end }}

{{- define "mesh.wideRoleRef" -}}
{{- if eq .root.Values.scope "cluster" -}}
{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .name }}}
{{- else -}}
{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .name }}-objects}
{{- end -}}
{{- end }}

{{/* What a member of the mesh proves itself with: a token, whom to trust, a folder for its key. */}}
{{- define "mesh.identityVolumes" -}}
- name: mesh-token
  projected:
    sources:
      - serviceAccountToken: {audience: inferencemesh.dev, expirationSeconds: 3600, path: token}
# Made by the operator; the pod waits for it.
- name: mesh-trust
  configMap: {name: mesh-trust}
- name: mesh-identity
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}

{{- define "mesh.identityMounts" -}}
- {name: mesh-token, mountPath: /var/run/inferencemesh.dev/token, readOnly: true}
- {name: mesh-trust, mountPath: /var/run/inferencemesh.dev/trust, readOnly: true}
- {name: mesh-identity, mountPath: /var/run/inferencemesh.dev/identity}
{{- end }}

{{/* Folders of nodes that pods of confined namespaces may read, as a list in CEL. */}}
{{- define "mesh.hostPaths" -}}
[{{ range $number, $path := .Values.confine.hostPaths }}{{ if $number }}, {{ end }}'{{ $path }}'{{ end }}]
{{- end }}
