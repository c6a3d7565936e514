package policy

// knownActions are the actions of AWS by service, as far as policies for kmsfs may name them. Policies written for AWS name more of S3
// than a file system asks for; those are no mistakes.
var knownActions = map[string][]string{
	"kms": {
		"CancelKeyDeletion", "ConnectCustomKeyStore", "CreateAlias", "CreateCustomKeyStore", "CreateGrant", "CreateKey", "Decrypt",
		"DeleteAlias", "DeleteCustomKeyStore", "DeleteImportedKeyMaterial", "DeriveSharedSecret", "DescribeCustomKeyStores", "DescribeKey",
		"DisableKey", "DisableKeyRotation", "DisconnectCustomKeyStore", "EnableKey", "EnableKeyRotation", "Encrypt", "GenerateDataKey",
		"GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext", "GenerateMac", "GenerateRandom",
		"GetKeyPolicy", "GetKeyRotationStatus", "GetParametersForImport", "GetPublicKey", "ImportKeyMaterial", "ListAliases", "ListGrants",
		"ListKeyPolicies", "ListKeyRotations", "ListKeys", "ListResourceTags", "ListRetirableGrants", "PutKeyPolicy", "ReEncryptFrom",
		"ReEncryptTo", "ReplicateKey", "RetireGrant", "RevokeGrant", "RotateKeyOnDemand", "ScheduleKeyDeletion", "Sign", "SynchronizeMultiRegionKey",
		"TagResource", "UntagResource", "UpdateAlias", "UpdateCustomKeyStore", "UpdateKeyDescription", "UpdatePrimaryRegion", "Verify", "VerifyMac",
	},
	"s3": {
		"AbortMultipartUpload", "BypassGovernanceRetention", "CreateBucket", "CreateBucketMetadataTableConfiguration", "DeleteBucket",
		"DeleteBucketMetadataTableConfiguration", "DeleteBucketPolicy", "DeleteBucketWebsite",
		"DeleteObject", "DeleteObjectTagging", "DeleteObjectVersion", "DeleteObjectVersionTagging", "GetAccelerateConfiguration",
		"GetAnalyticsConfiguration", "GetBucketAbac", "GetBucketAcl", "GetBucketCORS", "GetBucketLocation", "GetBucketLogging", "GetBucketNotification",
		"GetBucketObjectLockConfiguration", "GetBucketOwnershipControls", "GetBucketPolicy", "GetBucketPolicyStatus",
		"GetBucketPublicAccessBlock", "GetBucketRequestPayment", "GetBucketTagging", "GetBucketVersioning", "GetBucketWebsite",
		"GetBucketMetadataTableConfiguration", "GetEncryptionConfiguration", "GetIntelligentTieringConfiguration", "GetInventoryConfiguration", "GetLifecycleConfiguration", "GetMetricsConfiguration", "GetObject",
		"GetObjectAcl", "GetObjectAttributes", "GetObjectLegalHold", "GetObjectRetention", "GetObjectTagging", "GetObjectTorrent",
		"GetObjectVersion", "GetObjectVersionAcl", "GetObjectVersionAttributes", "GetObjectVersionForReplication", "GetObjectVersionTagging",
		"GetObjectVersionTorrent", "GetReplicationConfiguration", "InitiateReplication",
		"ListAllMyBuckets", "ListBucket", "ListBucketMultipartUploads", "ListBucketVersions", "ListMultipartUploadParts",
		"ListTagsForResource", "ObjectOwnerOverrideToBucketOwner", "PauseReplication", "PutAccelerateConfiguration",
		"PutAnalyticsConfiguration", "PutBucketAbac", "PutBucketAcl", "PutBucketCORS", "PutBucketLogging",
		"PutBucketNotification", "PutBucketObjectLockConfiguration", "PutBucketOwnershipControls", "PutBucketPolicy",
		"PutBucketPublicAccessBlock", "PutBucketRequestPayment", "PutBucketTagging", "PutBucketVersioning", "PutBucketWebsite",
		"PutEncryptionConfiguration", "PutIntelligentTieringConfiguration", "PutInventoryConfiguration", "PutLifecycleConfiguration", "PutMetricsConfiguration", "PutObject",
		"PutObjectAcl", "PutObjectLegalHold", "PutObjectRetention", "PutObjectTagging", "PutObjectVersionAcl", "PutObjectVersionTagging",
		"PutReplicationConfiguration", "ReplicateDelete", "ReplicateObject", "ReplicateTags", "RestoreObject", "TagResource", "UntagResource",
		"UpdateBucketMetadataInventoryTableConfiguration", "UpdateBucketMetadataJournalTableConfiguration", "UpdateObjectEncryption",
	},
	"iam": {
		"AddUserToGroup", "AttachGroupPolicy", "AttachUserPolicy", "CreateAccessKey", "CreateGroup", "CreatePolicy", "CreatePolicyVersion",
		"CreateUser", "DeleteAccessKey", "DeleteGroup", "DeleteGroupPolicy", "DeletePolicy", "DeletePolicyVersion", "DeleteUser",
		"DeleteUserPermissionsBoundary", "DeleteUserPolicy", "DetachGroupPolicy", "DetachUserPolicy", "GetAccessKeyLastUsed", "GetGroup",
		"GetGroupPolicy", "GetPolicy", "GetPolicyVersion", "GetRole", "GetUser", "GetUserPolicy", "ListAccessKeys", "ListAttachedGroupPolicies",
		"ListAttachedUserPolicies", "ListGroupPolicies", "ListGroups", "ListGroupsForUser", "ListPolicies", "ListPolicyVersions", "ListRoles",
		"ListUserPolicies", "ListUserTags", "ListUsers", "PassRole", "PutGroupPolicy", "PutUserPermissionsBoundary", "PutUserPolicy",
		"RemoveUserFromGroup", "SimulateCustomPolicy", "SimulatePrincipalPolicy", "TagUser", "UntagUser", "UpdateAccessKey", "UpdateGroup",
		"UpdateUser",
	},
	"sts":        {"AssumeRole", "GetCallerIdentity", "TagSession"},
	"cloudtrail": {"LookupEvents"},
}

var (
	// withoutResource are actions whose resource is always "*".
	withoutResource = []string{"CreateKey", "ListKeys", "ListAliases", "GenerateRandom", "ListRetirableGrants", "ListAllMyBuckets"}
	// onAliases are those about an alias as well as its key.
	onAliases = []string{"CreateAlias", "UpdateAlias", "DeleteAlias"}
	// onBuckets are those about buckets that have "Object" in their names.
	onBuckets = []string{"GetBucketObjectLockConfiguration", "PutBucketObjectLockConfiguration"}
	// onObjects are those about objects that have not.
	onObjects = []string{
		"AbortMultipartUpload", "BypassGovernanceRetention", "InitiateReplication", "ListMultipartUploadParts", "ReplicateDelete", "ReplicateTags",
	}
)
